//! The stand-in for CUDA's driver and cuBLAS (`tests/driver`, run by `scripts/cuda-rehearse`) against a program that uses
//! it rightly and wrongly: what a device would answer with wrong numbers, or not at all, is said here.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

/// The program, linked to the stand-in.
static PROBE: LazyLock<PathBuf> = LazyLock::new(|| {
    let crate_dir = Path::new(env!("CARGO_MANIFEST_DIR"));
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join("rehearsal");
    let built = Command::new(crate_dir.join("../scripts/cuda-rehearse"))
        .arg("--build")
        .env("MEDTUNE_REHEARSAL_DIR", &out)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&built.stderr);
    assert!(
        built.status.success(),
        "this test needs a C++ compiler named c++: {said}"
    );
    let (library, program) = (out.join("lib"), out.join("probe"));
    let compiled = Command::new("c++")
        .args(["-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", "-o"])
        .arg(&program)
        .arg(crate_dir.join("tests/driver/probe/probe.cpp"))
        .arg(library.join("libcuda.so.1"))
        .arg(format!("-Wl,-rpath,{}", library.display()))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&compiled.stderr);
    assert!(compiled.status.success(), "{said}");
    program
});

/// What a case prints, then what the stand-in says, without the addresses; and how it ended.
fn run(case: &str, late: bool) -> String {
    let output = Command::new(&*PROBE)
        .arg(case)
        .env("MEDTUNE_REHEARSAL_LATE", if late { "1" } else { "0" })
        .env("MEDTUNE_REHEARSAL_MEMORY_MIB", "16")
        .env_remove("MEDTUNE_REHEARSAL_LOG")
        .env_remove("MEDTUNE_REHEARSAL_TRACE")
        .output()
        .unwrap();
    let mut text = String::from_utf8(output.stdout).unwrap();
    for line in String::from_utf8(output.stderr).unwrap().lines() {
        if line.contains("there is no GPU here") {
            continue;
        }
        let words: Vec<&str> = line
            .split(' ')
            .map(|word| match word.trim_end_matches([':', ',']) {
                address if address.starts_with("0x") => &word[..2],
                _ => word,
            })
            .collect();
        text.push_str(&words.join(" "));
        text.push('\n');
    }
    match output.status.code() {
        Some(0) => {}
        Some(code) => text.push_str(&format!("exit {code}\n")),
        None => text.push_str("killed\n"),
    }
    text
}

#[test]
fn what_is_right_is_computed() {
    for late in [false, true] {
        assert_eq!(run("fills", late), "");
        assert_eq!(run("multiplies", late), "as defined\n");
        assert_eq!(run("uses-two-streams-in-order", late), "2\n");
        assert_eq!(run("follows-a-table", late), "25\n");
    }
}

/// What goes well by chance if the device is quick, and what if it is slow.
#[test]
fn work_is_done_as_early_or_as_late_as_may_be() {
    let both = |case| (run(case, false), run(case, true));
    let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
    assert_eq!(both("reuses-pinned-memory"), pair("1\n", "2\n"));
    assert_eq!(both("uses-two-streams"), pair("2\n", "1\n"));
}

/// The same is found whenever it is done.
fn found(case: &str) -> String {
    let early = run(case, false);
    assert_eq!(early, run(case, true), "{case}");
    early
}

#[test]
fn what_touches_other_memory_is_named() {
    insta::assert_snapshot!(found("writes-beside"), @"
    rehearsal: fill_f32: wrote 1 bytes beyond the last of allocation 1 of 492 bytes
    exit 99
    ");
    insta::assert_snapshot!(found("writes-far-beyond"), @"
    rehearsal: fill_f32: block (0, 0, 0), thread (16, 0, 0) touched 0x 20 bytes beyond allocation 1 of 492 bytes
    exit 99
    ");
    insta::assert_snapshot!(found("uses-freed"), @"
    launch 1, free 1, copy 1, copy beyond 1
    rehearsal: fill_f32: argument 0, 0x is 0 bytes into allocation 1 of 400 bytes, which is freed
    rehearsal: 0x is freed, and is no allocation any more
    rehearsal: a copy from the device: its source, 4 bytes from 0x on, is 0 bytes into allocation 1 of 400 bytes, which is freed
    rehearsal: a copy from the device: its source, 4 bytes from 0x on, is 398 bytes into allocation 2 of 400 bytes
    ");
    insta::assert_snapshot!(found("follows-a-table-to-freed"), @"
    rehearsal: partial_squares: block (0, 0, 0), thread (0, 0, 0): an address in a table, 0x is 0 bytes into allocation 1 of 400 bytes, which is freed
    exit 99
    ");
    insta::assert_snapshot!(found("passes-a-processors-address"), @"
    launch 1
    rehearsal: fill_f32: argument 0 is 0x which is no device address
    ");
    insta::assert_snapshot!(found("reads-on-the-processor"), @"
    rehearsal: an address that is none was used: one of the device, on the processor?
    killed
    ");
}

#[test]
fn what_a_device_refuses_is_refused() {
    insta::assert_snapshot!(found("launches-wrongly"), @"
    blocks of 257: 1, no blocks: 1, shared memory: 1
    rehearsal: fill_f32 is launched with a grid of (1, 1, 1), blocks of (257, 1, 1) where 256 threads are the most, and 0 bytes of shared memory where 49152 are allowed
    rehearsal: fill_f32 is launched with a grid of (0, 1, 1), blocks of (32, 1, 1) where 256 threads are the most, and 0 bytes of shared memory where 49152 are allowed
    rehearsal: fill_f32 is launched with a grid of (1, 1, 1), blocks of (32, 1, 1) where 256 threads are the most, and 50000 bytes of shared memory where 49152 are allowed
    ");
    insta::assert_snapshot!(found("multiplies-unaligned"), @"
    aligned: 0, not: 7
    rehearsal: cublasLtMatmul: A is at 0x and the algorithm was chosen for addresses of 16 bytes
    ");
    insta::assert_snapshot!(found("takes-too-much"), @"12 MiB: 0, the same again: 2");
}

#[test]
fn what_cannot_be_rehearsed_is_said() {
    insta::assert_snapshot!(found("launches-candles"), @"
    ucopy gives 3, softmax: 801
    rehearsal: candle's kernel softmax_f32 is launched, and is not rehearsed (kernels/tests/driver/candle.cpp)
    ");
    insta::assert_snapshot!(found("is-stale"), @"
    rehearsal: fill_bf16 of the program takes other arguments than fill_bf16 of kernels/src: build both from one tree
    exit 99
    ");
}
