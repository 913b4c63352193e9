//! The CUDA side: which kernel is launched how. Compiled everywhere, as it is arithmetic on shapes.

pub mod launch;
