//! The program; see the library.

#![forbid(unsafe_code)]

use std::{env, io};

fn main() {
    weft_cni_plugin::process::run(|| {
        // Runtimes give no arguments and always a command in the environment.
        let asked = env::var_os("CNI_COMMAND").is_none_or(|command| command.is_empty());
        let by_hand = asked.then(|| weft_cni_plugin::install::command(env::args_os().skip(1))).flatten();
        by_hand.unwrap_or_else(|| weft_cni_plugin::respond(|name| env::var_os(name), io::stdin().lock()))
    })
}
