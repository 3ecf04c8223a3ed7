//! Ctrl-C, SIGTERM and panics: every lab of this process is removed, then the process ends.

use nix::sys::signal::{SigSet, Signal};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

static ENDING: AtomicBool = AtomicBool::new(false);
static LABS: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// To be called before something is made: once labs are being removed, nothing new is.
pub fn stop_if_ending() {
    while ENDING.load(Ordering::SeqCst) {
        std::thread::park();
    }
}

/// Notes a lab that must be removed on a signal.
pub fn register(lab: &str) {
    LABS.lock().unwrap_or_else(PoisonError::into_inner).insert(lab.to_owned());
}

/// The lab is gone, or is to stay.
pub fn unregister(lab: &str) {
    LABS.lock().unwrap_or_else(PoisonError::into_inner).remove(lab);
}

/// Starts the thread that waits for signals. To be called before any other thread is made, which all
/// inherit the blocked signals; so do processes, which is why `Process` unblocks them.
///
/// # Errors
/// The signals cannot be blocked.
pub fn watch() -> anyhow::Result<()> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGINT);
    signals.add(Signal::SIGTERM);
    signals.thread_block()?;
    std::thread::spawn(move || {
        let Ok(signal) = signals.wait() else { return };
        remove_all();
        std::process::exit(128 + signal as i32);
    });
    // Released binaries abort on a panic: nothing is dropped.
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        remove_all();
        std::process::exit(101);
    }));
    Ok(())
}

fn remove_all() {
    ENDING.store(true, Ordering::SeqCst);
    let labs = LABS.lock().unwrap_or_else(PoisonError::into_inner).clone();
    for lab in labs {
        if let Err(error) = crate::teardown::down(&lab) {
            crate::terminal::tell(&format!("{error:#}"));
        }
    }
}
