//! What a training writes, known before it starts.

use std::path::Path;

use crate::recipe::TrainSection;

/// What the disk need of a training follows from.
#[derive(Debug, Clone, Copy)]
pub struct DiskInput<'a> {
    /// The `[train]` table.
    pub settings: &'a TrainSection,
    /// Optimizer steps of the whole training.
    pub total_steps: u64,
    /// Bytes of one checkpoint: the trained parameters and the optimizer's state.
    pub state_bytes: u64,
    /// Bytes of the adapter or model that is written at the end.
    pub result_bytes: u64,
}

/// The most bytes that checkpoints and result take on the disk at one time; names and logs, kilobytes, are left out.
pub fn disk_need_bytes(input: &DiskInput) -> u64 {
    let checkpoints = checkpoints_held(input.settings, input.total_steps);
    let held = input.state_bytes.saturating_mul(checkpoints);
    held.saturating_add(input.result_bytes)
}

/// The most checkpoints on the disk at one time: those kept, the best where it is older than they are, and the new one
/// before an old one goes; but no more than are written at all.
fn checkpoints_held(settings: &TrainSection, total_steps: u64) -> u64 {
    let every = |steps: u64| total_steps.checked_div(steps).unwrap_or(0);
    let mut written = 1 + every(settings.save_steps);
    if settings.load_best_model_at_end {
        written += every(settings.eval_steps);
    }
    (settings.save_total_limit as u64)
        .saturating_add(2)
        .min(written)
}

/// Bytes that this process may still write to the disk of an existing folder; `None` where the system does not tell.
pub fn free_disk_bytes(folder: &Path) -> Option<u64> {
    #[cfg(unix)]
    {
        use std::os::unix::ffi::OsStrExt;
        let path = std::ffi::CString::new(folder.as_os_str().as_bytes()).ok()?;
        let mut stat = std::mem::MaybeUninit::<libc::statvfs>::uninit();
        // SAFETY: the path ends in a zero byte, and the struct is written whole where the call answers 0.
        let stat = unsafe {
            if libc::statvfs(path.as_ptr(), stat.as_mut_ptr()) != 0 {
                return None;
            }
            stat.assume_init()
        };
        // Their widths differ between systems.
        #[allow(clippy::unnecessary_cast)]
        Some((stat.f_bavail as u64).saturating_mul(stat.f_frsize as u64))
    }
    #[cfg(not(unix))]
    {
        let _ = folder;
        None
    }
}
