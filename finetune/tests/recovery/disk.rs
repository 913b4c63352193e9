//! Disks that are full and folders that cannot be written to: a named error, and the last checkpoint goes on.

use std::fs;
use std::io;
use std::path::Path;

use finetune::recipe::TrainSection;
use finetune::{DiskInput, disk_need_bytes, free_disk_bytes, snapshot_bytes};

use super::{Process, assert_same_end, checkpoint, checkpoints, log, lora, said};

fn need(settings: TrainSection) -> u64 {
    disk_need_bytes(&DiskInput {
        settings: &settings,
        total_steps: 100,
        state_bytes: 1200,
        result_bytes: 400,
    })
}

#[test]
fn the_need_of_a_training_follows_from_its_settings() {
    let save = |save_steps, save_total_limit| TrainSection {
        save_steps,
        save_total_limit,
        ..Default::default()
    };
    // The last step's only.
    assert_eq!(need(save(0, 2)), 1200 + 400);
    // Two, the best where it is older, and the one being written.
    assert_eq!(need(save(10, 2)), 4 * 1200 + 400);
    // No more than are ever written: after steps 40, 80 and 100.
    assert_eq!(need(save(40, 50)), 3 * 1200 + 400);
    let best = TrainSection {
        load_best_model_at_end: true,
        eval_steps: 50,
        ..save(0, 7)
    };
    assert_eq!(need(best), 3 * 1200 + 400);
    assert_eq!(need(save(1, usize::MAX)), 101 * 1200 + 400);
}

#[test]
fn a_copy_in_memory_is_made_of_small_states_only() {
    assert_eq!(snapshot_bytes(1 << 20), 1 << 20);
    assert_eq!(snapshot_bytes(1 << 30), 1 << 30);
    assert_eq!(snapshot_bytes((1 << 30) + 1), 0);
}

#[test]
fn a_training_that_the_disk_has_no_room_for_does_not_start() {
    let folder = tempfile::tempdir().unwrap();
    assert!(free_disk_bytes(folder.path()).unwrap() > 1 << 20);
    assert_eq!(free_disk_bytes(&folder.path().join("absent")), None);
    let mut process = Process::new(folder.path(), lora());
    process.settings.max_steps = Some(1 << 40);
    process.settings.save_steps = 1;
    process.settings.save_total_limit = 1 << 40;
    let error = process.run_through().err().unwrap();
    let finetune::Error::DiskSpace {
        need_bytes,
        free_bytes,
        ..
    } = error
    else {
        panic!("{error}");
    };
    assert!(need_bytes > free_bytes);
    assert!(!folder.path().join("steps.jsonl").exists());
    let text = said(&error, folder.path()).replace(&free_bytes.to_string(), "FREE");
    insta::assert_snapshot!(text, @"
    the disk of RUN has FREE bytes free, and the training's checkpoints and result need 18999560927992320
    hint: free some space on the disk, choose another folder with --out, or lower train.save_total_limit
    ");
}

/// A folder in which nobody can make a folder, root neither: sysfs has no such operation.
const UNWRITABLE: &str = "/sys";

/// Another file system that refuses to be written to would do as well; without one there is nothing to test.
fn unwritable() -> bool {
    let refused = fs::create_dir(Path::new(UNWRITABLE).join("medtune-test"));
    matches!(
        refused.map_err(|error| error.kind()),
        Err(io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem)
    )
}

/// Permissions are taken away from a folder in the middle of a training: the checkpoint that is due is written by
/// another thread, its failure comes up at a later step, and the checkpoint before it is what the run goes on from.
#[cfg(unix)]
#[test]
fn a_folder_that_becomes_read_only_costs_no_more_than_the_steps_since_the_last_checkpoint() {
    assert!(unwritable());
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let whole = Process::new(a.path(), lora()).run_through().unwrap();
    Process::new(b.path(), lora()).stopped_after(2);
    let (folder, aside) = (b.path().join("checkpoints"), b.path().join("aside"));
    let mut last_step = 0;
    let failed = Process::new(b.path(), lora()).run(|step, _| {
        last_step = step;
        // After it was read from, before step 3's is written to it.
        if step == 3 {
            fs::rename(&folder, &aside).unwrap();
            std::os::unix::fs::symlink(UNWRITABLE, &folder).unwrap();
        }
    });
    let error = failed.err().unwrap();
    assert!((3..=6).contains(&last_step), "{last_step}");
    let finetune::Error::CheckpointWrite { source, newest, .. } = &error else {
        panic!("{error}");
    };
    assert_eq!(*newest, Some(2));
    let text = said(&error, b.path()).replace(&source.to_string(), "SYSTEM");
    insta::assert_snapshot!(text, @"
    cannot write checkpoint RUN/checkpoints/step-00000003
      SYSTEM
    hint: make the folder writable; the same command then goes on from step 2, whose checkpoint is intact
    ");

    fs::remove_file(&folder).unwrap();
    fs::rename(&aside, &folder).unwrap();
    let resumed = Process::new(b.path(), lora()).run_through().unwrap();
    assert_eq!(resumed.resumed_from, 2);
    assert_same_end(&whole, &resumed);
    assert_eq!(log(a.path()), log(b.path()));
}

#[test]
fn a_file_in_place_of_a_folder_is_named() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("checkpoints"), "mine").unwrap();
    let error = Process::new(folder.path(), lora()).run_through().err();
    insta::assert_snapshot!(said(&error.unwrap(), folder.path()), @"
    RUN/checkpoints: Not a directory (os error 20)
    hint: choose a folder that you may write to with --out
    ");

    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("file"), "mine").unwrap();
    let inside = folder.path().join("file/train");
    let error = Process::new(&inside, lora()).run_through().err();
    insta::assert_snapshot!(said(&error.unwrap(), folder.path()), @"
    cannot write `RUN/file/train`
      Not a directory (os error 20)
    hint: choose a folder that you may write to with --out
    ");
}

#[test]
fn a_file_in_place_of_a_checkpoint_being_written_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    Process::new(folder.path(), lora()).stopped_after(1);
    fs::write(checkpoint(folder.path(), 2).with_extension("partial"), "x").unwrap();
    Process::new(folder.path(), lora()).stopped_after(2);
    assert_eq!(
        checkpoints(folder.path()),
        ["step-00000001", "step-00000002"]
    );
}

/// What cannot be brought about here without a disk of one's own: the system's other reasons.
#[test]
fn each_reason_for_not_writing_has_its_advice() {
    let text = |kind: io::ErrorKind, newest| {
        let error = finetune::Error::CheckpointWrite {
            path: "checkpoints/step-00000008".into(),
            source: kind.into(),
            newest,
        };
        said(&error, Path::new("RUN"))
    };
    insta::assert_snapshot!(text(io::ErrorKind::StorageFull, Some(4)), @"
    cannot write checkpoint checkpoints/step-00000008
      no storage space
    hint: free some space on the disk (or raise the limit on file sizes); the same command then goes on from step 4, whose checkpoint is intact
    ");
    insta::assert_snapshot!(text(io::ErrorKind::QuotaExceeded, None), @"
    cannot write checkpoint checkpoints/step-00000008
      quota exceeded
    hint: free some space on the disk (or raise the limit on file sizes); no checkpoint was written yet, so the same command starts anew
    ");
    insta::assert_snapshot!(text(io::ErrorKind::ReadOnlyFilesystem, Some(4)), @"
    cannot write checkpoint checkpoints/step-00000008
      read-only filesystem or storage medium
    hint: make the folder writable; the same command then goes on from step 4, whose checkpoint is intact
    ");
    insta::assert_snapshot!(text(io::ErrorKind::TimedOut, Some(4)), @"
    cannot write checkpoint checkpoints/step-00000008
      timed out
    hint: set right what the system says; the same command then goes on from step 4, whose checkpoint is intact
    ");
    let log = |kind: io::ErrorKind| {
        let error = finetune::Error::Io {
            path: "train/steps.jsonl".into(),
            source: kind.into(),
        };
        said(&error, Path::new("RUN"))
    };
    insta::assert_snapshot!(log(io::ErrorKind::StorageFull), @"
    train/steps.jsonl: no storage space
    hint: free some space on the disk; the last checkpoint is intact, and the same command goes on from it
    ");
    insta::assert_snapshot!(log(io::ErrorKind::PermissionDenied), @"
    train/steps.jsonl: permission denied
    hint: choose a folder that you may write to with --out
    ");
}
