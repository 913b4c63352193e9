//! The process's memory: kept for reuse, and measured.

/// Tells glibc's malloc to keep freed blocks instead of giving them back to the system at once.
///
/// A training step allocates and frees the same large tensors over and over; returning each to the kernel costs a page
/// fault for every 4 KiB of it the next time (measured on small models: 1.5 to 1.9 times the time of a step).
/// Call once at start. Does nothing elsewhere.
pub fn keep_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: mallopt only changes parameters of the allocator; any value is accepted or ignored.
    unsafe {
        // 1 GiB: above every tensor that a step makes again; larger ones are mapped and returned as before.
        const KEEP_BYTES: i32 = 1 << 30;
        libc::mallopt(libc::M_MMAP_THRESHOLD, KEEP_BYTES);
        libc::mallopt(libc::M_TRIM_THRESHOLD, KEEP_BYTES);
    }
}

/// Largest resident size of this process so far, in bytes; `None` where the system does not tell.
pub fn peak_memory_bytes() -> Option<u64> {
    status_bytes("VmHWM:")
}

/// A size in /proc/self/status.
fn status_bytes(key: &str) -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|l| l.starts_with(key))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib * 1024)
}

/// The resident memory of this process at one moment, from which growth is measured.
pub struct ResidentMemory {
    anonymous: Option<u64>,
}

impl ResidentMemory {
    /// Starts measuring here: the system forgets the largest size so far, where it lets itself be told.
    pub fn start() -> Self {
        // What loading has freed goes back first: the arena has its own pages.
        #[cfg(all(target_os = "linux", target_env = "gnu"))]
        // SAFETY: it only gives free pages back.
        unsafe {
            libc::malloc_trim(0);
        }
        // 5 resets VmHWM (proc(5), clear_refs); a failure leaves an earlier, larger peak.
        let _ = std::fs::write("/proc/self/clear_refs", "5");
        Self {
            anonymous: status_bytes("RssAnon:"),
        }
    }

    /// The most by which it has grown, without the pages of mapped files (the frozen weights), in bytes.
    pub fn largest_growth(&self) -> Option<u64> {
        let peak = status_bytes("VmHWM:")?;
        let files = status_bytes("RssFile:")?;
        Some(peak.saturating_sub(files).saturating_sub(self.anonymous?))
    }
}

/// What a training took, against its plan; all in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct MemoryUse {
    /// What a step takes and the optimizer keeps, as planned.
    pub planned: u64,
    /// Keys and values of answers that are written between steps, as planned: lists that grow, outside the arena.
    pub answers: u64,
    /// The most of it that was in use at once; `None` without an arena.
    pub in_use: Option<u64>,
    /// From the arena's start to the highest address that was used.
    pub touched: Option<u64>,
    /// The growth of the process's resident memory over the training.
    pub resident_growth: Option<u64>,
}
