//! What must not grow with the number of files.

use std::fs;
use std::thread;
use std::time::Duration;

use crate::support::{Desk, Migrator};

/// Runs it, and returns the most memory that it had, in bytes.
fn peak(migrator: Migrator) -> u64 {
    let mut running = migrator.start();
    let status = format!("/proc/{}/status", running.pid());
    let mut peak = 0;
    while !running.has_ended() {
        let text = fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
        peak = peak.max(kib.unwrap_or(0) << 10);
        thread::sleep(Duration::from_millis(1));
    }
    running.wait().exits(0);
    assert!(peak > 1 << 20, "{peak} bytes: was it looked at?");
    peak
}

/// rclone keeps 1 GiB for each million files, s5cmd 1.5 and azcopy 2.9: users with fifty millions cannot begin.
#[test]
fn memory_does_not_grow_with_the_number_of_files() {
    let desk = Desk::new();
    let mut made = 0;
    let mut plan_of = |count: usize| {
        for number in made..count {
            if number % 500 == 0 {
                fs::create_dir(desk.source(&format!("{:03}", number / 500))).unwrap();
            }
            fs::File::create(desk.source(&format!("{:03}/{number:06}-of-a-name-as-they-are", number / 500)))
                .unwrap();
        }
        made = count;
        peak(desk.migrator(["plan", "source", "embedded:target"]))
    };
    let (few, many) = (plan_of(1_000), plan_of(41_000));
    // 40 MiB would be 1 KiB a file; the allocator's own ups and downs are some.
    assert!(many < few + (8 << 20), "{few} bytes for 1,000 files, {many} for 41,000");
}
