//! Processes that are measured from outside.

use std::fs;
use std::process::{Child, Command};
use std::thread;
use std::time::Duration;

/// How often a process's memory is looked at.
const LOOK: Duration = Duration::from_micros(500);

/// Waits for a process, which must end well.
///
/// # Errors
/// It doesn't.
pub fn ended_well(child: &mut Child) -> Result<(), String> {
    let status = child.wait().map_err(|e| e.to_string())?;
    if status.success() { Ok(()) } else { Err(status.to_string()) }
}

/// The most anonymous memory that a process is seen to have, and its peak of all that is resident,
/// in MB.
///
/// # Errors
/// It can't be started, or ends badly.
pub fn memory(command: &mut Command) -> Result<(f64, f64), String> {
    let mut child = command.spawn().map_err(|e| e.to_string())?;
    let status = format!("/proc/{}/status", child.id());
    let (mut anonymous, mut peak) = (0.0, 0.0);
    while child.try_wait().map_err(|e| e.to_string())?.is_none() {
        let status = fs::read_to_string(&status).unwrap_or_default();
        let megabytes = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let number = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
            number.map_or(0.0, |kib| kib * 1024.0 / 1e6)
        };
        anonymous = megabytes("RssAnon:").max(anonymous);
        peak = megabytes("VmHWM:").max(peak);
        thread::sleep(LOOK);
    }
    ended_well(&mut child)?;
    Ok((anonymous, peak))
}
