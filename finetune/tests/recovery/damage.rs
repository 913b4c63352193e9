//! A checkpoint that is not what was written is named, together with the older one that is; a run goes on from that.

use std::fs;

use super::{Process, assert_same_end, checkpoint, checkpoints, log, lora, said};

const FILES: [&str; 4] = [
    "SHA256SUMS",
    "optimizer.safetensors",
    "parameters.safetensors",
    "state.json",
];

#[test]
fn any_flipped_bit_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    Process::new(folder.path(), lora()).stopped_after(2);
    for name in FILES {
        let file = checkpoint(folder.path(), 2).join(name);
        let whole = fs::read(&file).unwrap();
        for place in [0, whole.len() / 3, whole.len() / 2, whole.len() - 5] {
            let mut bytes = whole.clone();
            bytes[place] ^= 4;
            fs::write(&file, bytes).unwrap();
            let error = Process::new(folder.path(), lora()).run_through().err();
            assert!(
                matches!(error, Some(finetune::Error::Checkpoint { .. })),
                "{name} at {place}: {error:?}"
            );
        }
        fs::write(&file, whole).unwrap();
    }
    Process::new(folder.path(), lora()).run_through().unwrap();
}

#[test]
fn the_run_goes_on_from_the_checkpoint_before_a_damaged_one() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let whole = Process::new(a.path(), lora()).run_through().unwrap();
    Process::new(b.path(), lora()).stopped_after(5);
    assert_eq!(checkpoints(b.path()), ["step-00000003", "step-00000005"]);
    let file = checkpoint(b.path(), 5).join("optimizer.safetensors");
    let mut bytes = fs::read(&file).unwrap();
    let last = bytes.len() - 5;
    bytes[last] ^= 1;
    fs::write(&file, bytes).unwrap();
    let error = Process::new(b.path(), lora()).run_through().err().unwrap();
    insta::assert_snapshot!(said(&error, b.path()), @"
    checkpoint RUN/checkpoints/step-00000005 cannot be used: optimizer.safetensors has changed since it was written (SHA-256 differs)
    hint: move the folder step-00000005 out of checkpoints/; the same command then goes on from step 3, whose checkpoint is whole
    ");
    // As the hint says.
    fs::rename(checkpoint(b.path(), 5), b.path().join("damaged")).unwrap();
    let resumed = Process::new(b.path(), lora()).run_through().unwrap();
    assert_eq!(resumed.resumed_from, 3);
    assert_same_end(&whole, &resumed);
    assert_eq!(log(a.path()), log(b.path()));
}

#[test]
fn files_that_are_cut_or_gone_are_named() {
    let folder = tempfile::tempdir().unwrap();
    Process::new(folder.path(), lora()).stopped_after(2);
    let mut said_of = String::new();
    for name in FILES {
        let file = checkpoint(folder.path(), 2).join(name);
        let whole = fs::read(&file).unwrap();
        let mut refuse = || {
            let error = Process::new(folder.path(), lora()).run_through().err();
            let text = said(&error.unwrap(), folder.path());
            said_of.push_str(text.lines().next().unwrap());
            said_of.push('\n');
        };
        fs::write(&file, &whole[..whole.len() / 2]).unwrap();
        refuse();
        fs::remove_file(&file).unwrap();
        refuse();
        fs::write(&file, whole).unwrap();
    }
    insta::assert_snapshot!(said_of, @"
    checkpoint RUN/checkpoints/step-00000002 cannot be used: SHA256SUMS has no line for state.json
    checkpoint RUN/checkpoints/step-00000002 cannot be used: SHA256SUMS: No such file or directory (os error 2)
    checkpoint RUN/checkpoints/step-00000002 cannot be used: optimizer.safetensors has changed since it was written (SHA-256 differs)
    checkpoint RUN/checkpoints/step-00000002 cannot be used: optimizer.safetensors: No such file or directory (os error 2)
    checkpoint RUN/checkpoints/step-00000002 cannot be used: parameters.safetensors has changed since it was written (SHA-256 differs)
    checkpoint RUN/checkpoints/step-00000002 cannot be used: parameters.safetensors: No such file or directory (os error 2)
    checkpoint RUN/checkpoints/step-00000002 cannot be used: state.json has changed since it was written (SHA-256 differs)
    checkpoint RUN/checkpoints/step-00000002 cannot be used: state.json: No such file or directory (os error 2)
    ");
}

#[test]
fn a_folder_of_another_step_is_named() {
    let folder = tempfile::tempdir().unwrap();
    Process::new(folder.path(), lora()).stopped_after(2);
    fs::rename(checkpoint(folder.path(), 2), checkpoint(folder.path(), 9)).unwrap();
    let error = Process::new(folder.path(), lora()).run_through().err();
    insta::assert_snapshot!(said(&error.unwrap(), folder.path()), @"
    checkpoint RUN/checkpoints/step-00000009 cannot be used: its folder says step 9, its state step 2
    hint: move the folder step-00000009 out of checkpoints/; the same command then starts anew: no other checkpoint is whole
    ");
}

#[test]
fn what_a_kill_left_behind_is_cleared_and_what_is_not_ours_stays() {
    let folder = tempfile::tempdir().unwrap();
    Process::new(folder.path(), lora()).stopped_after(2);
    let place = folder.path().join("checkpoints");
    for name in [
        "step-00000003.partial",
        "step-00000001.partial",
        "step-best",
        "step-3",
    ] {
        fs::create_dir(place.join(name)).unwrap();
        fs::write(place.join(name).join("state.json"), "{").unwrap();
    }
    fs::write(place.join("notes.txt"), "mine").unwrap();
    let outcome = Process::new(folder.path(), lora()).stopped_after(4);
    assert_eq!(outcome.resumed_from, 2);
    assert_eq!(
        checkpoints(folder.path()),
        [
            "notes.txt",
            "step-00000003",
            "step-00000004",
            "step-3",
            "step-best"
        ]
    );
}
