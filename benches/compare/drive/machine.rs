//! Where figures come from.

use std::fs;
use std::path::Path;
use std::process::Command;

use rustix::fs::statfs;

/// Returns processor, memory, kernel, and the file systems of the two directories, one line each.
pub(crate) fn facts(files: &Path, ledgers: &Path) -> Vec<String> {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.split_once(':').map_or("?", |(_, value)| value.trim()).to_owned()
    };
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let memory: u64 = field(&read("/proc/meminfo"), "MemTotal")
        .split_whitespace()
        .next()
        .and_then(|kib| kib.parse().ok())
        .unwrap_or(0);
    vec![
        format!(
            "{} x {}, {} GiB of memory",
            cores,
            field(&read("/proc/cpuinfo"), "model name"),
            memory >> 20
        ),
        format!("Linux {}", read("/proc/sys/kernel/osrelease").trim()),
        format!("data sets and copies on {}, ledgers on {}", file_system(files), file_system(ledgers)),
        format!("load when it began: {}", read("/proc/loadavg").split_whitespace().next().unwrap_or("?")),
    ]
}

fn file_system(path: &Path) -> &'static str {
    match statfs(path).map(|found| found.f_type) {
        Ok(0xef53) => "ext4",
        Ok(0x0102_1994) => "tmpfs",
        Ok(0x5846_5342) => "xfs",
        Ok(0x9123_683e) => "btrfs",
        Ok(0x794c_7630) => "overlayfs",
        Ok(0x2fc1_2fc1) => "zfs",
        _ => "another file system",
    }
}

/// Returns the commit that is checked out, where this is a checkout.
pub(crate) fn commit() -> Option<String> {
    let output = Command::new("git").args(["describe", "--always", "--dirty"]).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}
