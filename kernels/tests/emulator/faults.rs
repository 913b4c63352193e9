//! That the emulator finds what is wrong with a kernel: a test that can't fail proves nothing.

use super::{Buffer, Float, numbers, run, try_run};
use kernels::cuda::launch::{Arg, Launch};

fn launch(name: &str) -> Launch {
    Launch {
        module: "faults",
        function: format!("fault_{name}"),
        grid: [1, 1, 1],
        block: [64, 1, 1],
        shared_bytes: 256,
        args: vec![Arg::Read(0), Arg::Write(1), Arg::U32(64)],
    }
}

fn buffers() -> Vec<Buffer> {
    let x = Buffer::floats(&numbers(64, 1, Float::F32), Float::F32).aligned();
    vec![x, Buffer::poison(64, 4).aligned()]
}

#[test]
fn a_right_kernel_passes() {
    let x = numbers(64, 1, Float::F32);
    let y = run(launch("none"), &buffers())[1].floats(Float::F32);
    assert!(y.iter().zip(x.iter().rev()).all(|(a, b)| a == b));
}

#[test]
fn each_fault_is_found() {
    for (name, finding) in [
        ("no_barrier", "buffer 1 depends on the order of threads"),
        ("reads_beyond", "outside its buffers"),
        ("reads_before", "outside its buffers"),
        ("writes_beyond", "outside its buffers"),
        ("barrier_in_branch", "the threads of a block do not meet"),
        ("shuffle_in_branch", "the threads of a block do not meet"),
        ("unawaited_copy", "buffer 1 depends on the order of threads"),
        ("unaligned", "is not aligned to 16 bytes"),
    ] {
        let said = try_run(launch(name), &buffers()).err().unwrap_or_default();
        assert!(said.contains(finding), "{name}: {said:?}");
    }
}

#[test]
fn what_was_never_written_to_shared_memory_is_nan() {
    let y = run(launch("unset_shared"), &buffers())[1].floats(Float::F32);
    assert!(y[63].is_nan() && y[..63].iter().all(|y| y.is_finite()));
}

#[test]
fn arguments_are_held_to_the_kernels_parameters() {
    let mut other = launch("none");
    other.args[2] = Arg::U64(64);
    let said = try_run(other, &buffers()).err().unwrap();
    assert!(said.contains("argument 2 is of another kind"), "{said}");
    let mut other = launch("none");
    other.args[1] = Arg::Read(1);
    let said = try_run(other, &buffers()).err().unwrap();
    assert!(said.contains("argument 1 is of another kind"), "{said}");
    let mut other = launch("none");
    other.args.push(Arg::Absent);
    let said = try_run(other, &buffers()).err().unwrap();
    assert!(said.contains("has 3 parameters, but 4 arguments"), "{said}");
}
