//! The kernels of this build, as PTX: one module a `.cu` file, put here by `build.rs`.

/// The kernels of one file.
#[derive(Clone, Copy, Debug)]
pub struct Module {
    /// The file's stem.
    pub name: &'static str,
    /// What the driver compiles for the device at hand.
    pub ptx: &'static str,
}

impl Module {
    /// Names of its kernels, as the PTX declares them.
    pub fn kernels(&self) -> impl Iterator<Item = &'static str> {
        let entries = self
            .ptx
            .lines()
            .filter_map(|line| line.split_once(".entry "));
        entries.map(|(_, rest)| rest.trim_end().trim_end_matches('('))
    }
}

/// All modules, by their names in order.
pub const MODULES: &[Module] = include!(concat!(env!("OUT_DIR"), "/modules.rs"));

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_module_has_kernels() {
        for module in MODULES {
            assert!(module.ptx.contains(".target sm_"), "{}", module.name);
            assert!(
                module.kernels().count() > 0,
                "{} has no kernel",
                module.name
            );
        }
    }
}
