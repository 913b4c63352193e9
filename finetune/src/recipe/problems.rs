//! What of a `[train]` table types cannot rule out.

use super::{EVAL_LOSS, GradientMode, MicroBatchSize, TrainMethod, TrainSection, TrainedWeights};

impl TrainSection {
    /// Problems that types cannot rule out, as `(key, what is wrong)`.
    pub fn problems(&self) -> Vec<(&'static str, String)> {
        let mut problems = Vec::new();
        let mut hold = |ok: bool, key, wrong: String| {
            if !ok {
                problems.push((key, wrong));
            }
        };
        let at_least_one = "must be at least 1".to_owned();
        hold(
            self.micro_batch_size != MicroBatchSize::Packs(0),
            "micro_batch_size",
            at_least_one.clone(),
        );
        hold(
            self.gradient_accumulation_steps > 0,
            "gradient_accumulation_steps",
            at_least_one.clone(),
        );
        hold(self.max_steps != Some(0), "max_steps", at_least_one.clone());
        hold(self.save_total_limit > 0, "save_total_limit", at_least_one);
        hold(
            !self.load_best_model_at_end || self.eval_steps > 0,
            "load_best_model_at_end",
            "needs eval_steps above 0: it chooses among the steps that are evaluated".to_owned(),
        );
        hold(
            self.eval_tasks.is_empty() || self.eval_steps > 0,
            "eval_tasks",
            "needs eval_steps above 0: tasks are asked at those steps, and [eval] asks them at the end"
                .to_owned(),
        );
        hold(
            self.load_best_model_at_end || self.metric_for_best_model == EVAL_LOSS,
            "metric_for_best_model",
            format!(
                "is {:?}, and load_best_model_at_end is off: the last weights are used, whichever are best",
                self.metric_for_best_model
            ),
        );
        let positive = |x: f64| x > 0.0 && x.is_finite();
        let share = |x: f64| (0.0..=1.0).contains(&x);
        hold(
            positive(self.epochs),
            "epochs",
            format!("is {}, not a number above 0", self.epochs),
        );
        hold(
            positive(self.learning_rate),
            "learning_rate",
            format!("is {}, not a number above 0", self.learning_rate),
        );
        hold(
            positive(self.loraplus_lr_ratio),
            "loraplus_lr_ratio",
            format!("is {}, not a number above 0", self.loraplus_lr_ratio),
        );
        hold(
            self.loraplus_lr_ratio == 1.0 || self.method == TrainMethod::Adapter,
            "loraplus_lr_ratio",
            "is for adapters, and `method` is \"full\"".into(),
        );
        hold(
            share(self.warmup_ratio),
            "warmup_ratio",
            format!("is {}, not within 0 to 1", self.warmup_ratio),
        );
        hold(
            share(self.min_lr_ratio),
            "min_lr_ratio",
            format!("is {}, not within 0 to 1", self.min_lr_ratio),
        );
        for (key, beta) in [
            ("adam_beta1", self.adam_beta1),
            ("adam_beta2", self.adam_beta2),
        ] {
            hold(
                (0.0..1.0).contains(&beta),
                key,
                format!("is {beta}, not within 0 to 1 (1 excluded)"),
            );
        }
        hold(
            positive(self.adam_epsilon),
            "adam_epsilon",
            format!("is {}, not above 0", self.adam_epsilon),
        );
        hold(
            self.weight_decay >= 0.0 && self.weight_decay.is_finite(),
            "weight_decay",
            format!("is {}, below 0", self.weight_decay),
        );
        hold(
            self.max_grad_norm >= 0.0 && self.max_grad_norm.is_finite(),
            "max_grad_norm",
            format!("is {}, below 0", self.max_grad_norm),
        );
        let full = self.method == TrainMethod::Full;
        let adapter =
            "is not \"f32\", which needs method = \"full\": an adapter's own weights are few";
        hold(
            full || self.weights == TrainedWeights::F32,
            "weights",
            adapter.to_owned(),
        );
        let per_layer = self.gradients == GradientMode::PerLayer;
        hold(
            full || !per_layer,
            "gradients",
            "is \"per-layer\", which needs method = \"full\": an adapter's gradients are few"
                .into(),
        );
        hold(
            !per_layer || self.gradient_accumulation_steps <= 1,
            "gradients",
            format!(
                "is \"per-layer\", which applies gradients at once, but gradient_accumulation_steps = {} adds them up first; raise micro_batch_size instead",
                self.gradient_accumulation_steps
            ),
        );
        problems
    }
}
