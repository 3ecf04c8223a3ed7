//! The demo: one story with real traffic, each step saying what it did, what was seen and how long it
//! took.

mod cast;
mod chapters;
mod story;

use crate::lab::{Lab, LabOptions};
use crate::terminal::tell;
use anyhow::Result;
use cast::Cast;
use std::process::ExitCode;
use std::time::Instant;
use story::Story;

/// Plays the story; success only if every check passed.
///
/// # Errors
/// The lab cannot be made.
pub fn run() -> Result<ExitCode> {
    let start = Instant::now();
    let mut story = Story::default();
    let name = LabOptions::unique_name("demo");
    let played = play(&mut story, &name);
    if let Err(error) = &played {
        story.fail("the story was cut short", &format!("{error:#}"));
        drop(crate::teardown::down(&name));
    }
    story.check("everything is removed", || {
        let left = crate::teardown::leftovers(&name);
        anyhow::ensure!(left.is_empty(), "left: {}", left.join(", "));
        Ok("no namespace, process, mount or folder is left".to_owned())
    });
    tell(&format!("\nplayed in {:.1} s", start.elapsed().as_secs_f64()));
    tell(&format!("demo: {} checks passed, {} failed", story.passed(), story.failed()));
    Ok(if story.failed() == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn play(story: &mut Story, name: &str) -> Result<()> {
    story.chapter("Three hosts, an etcd, a policy server");
    let mut options = LabOptions::three(name);
    for host in &mut options.hosts {
        // So that a denied request is refused at once everywhere, as on cells.
        host.flags = vec!["--deny".to_owned(), "reject".to_owned()];
    }
    let begun = Instant::now();
    let mut lab = Lab::up(options)?;
    story.pass(
        "n1 and n2 (kubernetes) and c1 (cell) are ready",
        &format!("{:.0} ms", begun.elapsed().as_secs_f64() * 1e3),
    );
    chapters::leases(story, &lab);
    chapters::kubernetes_rules(story, &mut lab)?;
    let cast = Cast::assemble(&mut lab)?;
    chapters::refused(story, &lab, &cast);
    chapters::allowed(story, &lab, &cast);
    chapters::revoked(story, &lab, &cast)?;
    chapters::alone(story, &mut lab, &cast)?;
    chapters::together_again(story, &mut lab, &cast)?;
    story.chapter("The end");
    lab.down()
}
