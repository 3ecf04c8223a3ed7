//! Ctrl-C, SIGTERM and panics: every lab of this process is removed, then the process ends.

use crate::wait::PATIENCE;
use nix::sys::signal::{SigSet, Signal};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError, RwLock, RwLockReadGuard};

static ENDING: AtomicBool = AtomicBool::new(false);
static LABS: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
/// Held for reading by whoever is making something, so that removal does not look before it is there.
static MAKING: RwLock<()> = RwLock::new(());

/// To be held while something is made that would outlive this process. Once labs are being removed,
/// nothing new is: the thread stops here for good.
pub fn making() -> RwLockReadGuard<'static, ()> {
    loop {
        let guard = MAKING.read().unwrap_or_else(PoisonError::into_inner);
        if !ENDING.load(Ordering::SeqCst) {
            return guard;
        }
        drop(guard);
        stop_if_ending();
    }
}

/// To be called before a failure is told, or an exit status is given: once labs are being removed,
/// everything in them fails, and the thread that removes them ends the process.
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
    // With a deadline: a thread that panicked may be holding it.
    let made = crate::wait::until("what is being made", PATIENCE, || MAKING.try_write().map(drop));
    if let Err(error) = made {
        crate::terminal::tell(&format!("{error:#}; removing what is there"));
    }
    let labs = LABS.lock().unwrap_or_else(PoisonError::into_inner).clone();
    for lab in labs {
        if let Err(error) = crate::teardown::remove(&lab) {
            crate::terminal::tell(&format!("{error:#}"));
        }
    }
}
