//! What stands between the two layers of an encoder's MLP.

/// An element-wise function. The names are transformers' `hidden_act`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Activation {
    /// x Φ(x) with Φ of the normal distribution (Hendrycks and Gimpel 2016).
    Gelu,
    /// The same with Φ by tanh.
    GeluTanh,
    /// max(x, 0).
    Relu,
    /// x / (1 + e⁻ˣ).
    Silu,
}

impl Activation {
    /// By the name that `config.json` gives it.
    pub fn named(name: &str) -> Option<Self> {
        Some(match name {
            "gelu" | "gelu_python" => Self::Gelu,
            "gelu_new" | "gelu_fast" | "gelu_pytorch_tanh" | "gelu_python_tanh" => Self::GeluTanh,
            "relu" => Self::Relu,
            "silu" | "swish" => Self::Silu,
            _ => return None,
        })
    }

    /// Its value.
    pub fn of(self, x: f32) -> f32 {
        match self {
            Self::Gelu => 0.5 * x * (1.0 + libm::erff(x * std::f32::consts::FRAC_1_SQRT_2)),
            Self::GeluTanh => {
                // sqrt(2 / π)
                const SCALE: f32 = 0.797_884_6;
                0.5 * x * (1.0 + libm::tanhf(SCALE * (x + 0.044_715 * x * x * x)))
            }
            Self::Relu => x.max(0.0),
            Self::Silu => x / (1.0 + libm::expf(-x)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values of torch's gelu, gelu(approximate="tanh"), relu and silu.
    #[test]
    fn values_are_torchs() {
        for (x, expected) in [
            (-3.3, [-0.001_595_30, -0.001_311_23, 0.0, -0.117_384_92]),
            (-0.7, [-0.169_374_56, -0.169_429_87, 0.0, -0.232_268_56]),
            (0.0, [0.0; 4]),
            (0.4, [0.262_168_7, 0.262_161_17, 0.4, 0.239_475_06]),
            (2.9, [2.894_589_2, 2.895_033_3, 2.9, 2.748_754_7]),
        ] {
            let activations = ["gelu", "gelu_new", "relu", "silu"];
            for (name, expected) in activations.into_iter().zip(expected) {
                let value = Activation::named(name).unwrap().of(x);
                assert!((value - expected).abs() < 5e-7, "{name}({x}) = {value}");
            }
        }
    }
}
