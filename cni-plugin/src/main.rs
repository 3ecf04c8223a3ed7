//! The program; see the library.

#![forbid(unsafe_code)]

use std::{env, io};

fn main() {
    weft_cni_plugin::process::run(|| weft_cni_plugin::respond(|name| env::var_os(name), io::stdin().lock()))
}
