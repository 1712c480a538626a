//! The comparison of `tests/compare/behaviour`, with the program alone: whatever the peers do, every row must hold here.

use std::path::Path;
use std::process::Command;

use test_rig::shared;

use crate::support::judge;

#[test]
fn the_program_passes_every_row_of_the_comparison_with_its_peers() {
    let (Some(python), Some(garage), Some(moto)) = (judge(), test_rig::garage(), test_rig::moto()) else {
        return;
    };
    let scenarios = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/compare/behaviour");
    let output = Command::new(python)
        .arg("-B")
        .arg(scenarios)
        .args(["--tools", "migrator", "--many", "16000", "--jobs", "3", "--migrator"])
        .arg(env!("CARGO_BIN_EXE_migrator"))
        .envs(garage.to_env(shared::GARAGE))
        .envs(moto.to_env(shared::MOTO))
        .output()
        .unwrap();
    let (said, table) = (String::from_utf8_lossy(&output.stderr), String::from_utf8_lossy(&output.stdout));
    assert!(output.status.success(), "{said}\n{table}");
}
