//! Bytes that are taken and given back, and the fullest moment.

/// What a block holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// Activations that the forward pass keeps for the backward pass.
    Saved,
    /// Gradients of what is trained.
    Gradients,
    /// Logits, whose gradient takes their place.
    Logits,
    /// What a pass needs for a moment.
    Workspace,
    /// Keys and values of sequences that are being written.
    Cache,
}

/// The fullest moment of a step, in bytes by [`Part`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct StepMemory([u64; 5]);

impl StepMemory {
    pub(super) fn of(&self, part: Part) -> u64 {
        self.0[part as usize]
    }

    pub(super) fn total(&self) -> u64 {
        self.0.iter().sum()
    }
}

/// What is in use, and was at the fullest moment.
#[derive(Default)]
pub(super) struct Walk {
    live: StepMemory,
    pub(super) peak: StepMemory,
}

impl Walk {
    pub(super) fn take_as(&mut self, part: Part, bytes: u64) -> u64 {
        self.live.0[part as usize] += bytes;
        if self.live.total() > self.peak.total() {
            self.peak = self.live;
        }
        bytes
    }

    pub(super) fn give_as(&mut self, part: Part, bytes: u64) {
        self.live.0[part as usize] -= bytes;
    }

    pub(super) fn take(&mut self, bytes: u64) -> u64 {
        self.take_as(Part::Workspace, bytes)
    }

    pub(super) fn give(&mut self, bytes: u64) {
        self.give_as(Part::Workspace, bytes);
    }

    /// Something that is taken and given back at once.
    pub(super) fn touch(&mut self, bytes: u64) {
        self.take(bytes);
        self.give(bytes);
    }

    /// From now on these bytes are kept for the backward pass.
    pub(super) fn keep(&mut self, bytes: u64) {
        self.give(bytes);
        self.live.0[Part::Saved as usize] += bytes;
    }

    /// Kept bytes are about to be read, and given back.
    pub(super) fn release(&mut self, bytes: u64) {
        self.give_as(Part::Saved, bytes);
        self.live.0[Part::Workspace as usize] += bytes;
    }
}
