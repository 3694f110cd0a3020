//! Figures and their targets, printed as `name: value unit (target …)`.

/// What a benchmark has measured.
#[derive(Debug, Default)]
pub struct Figures {
    missed: Vec<String>,
}

impl Figures {
    /// A figure that must not be above its target.
    pub fn at_most(&mut self, name: &str, value: f64, unit: &str, target: f64) {
        self.print(name, value, unit, &format!("(target ≤ {target})"), value <= target);
    }

    /// A figure that must not be below its target.
    pub fn at_least(&mut self, name: &str, value: f64, unit: &str, target: f64) {
        self.print(name, value, unit, &format!("(target ≥ {target})"), value >= target);
    }

    /// A figure without a target.
    pub fn info(&mut self, name: &str, value: f64, unit: &str) {
        self.print(name, value, unit, "", true);
    }

    #[expect(clippy::print_stdout, reason = "this is what a benchmark is for")]
    fn print(&mut self, name: &str, value: f64, unit: &str, target: &str, met: bool) {
        let mark = if met { "" } else { " MISSED" };
        println!("{name}: {value:.2} {unit} {target}{mark}");
        if !met {
            self.missed.push(name.to_owned());
        }
    }

    /// Fails when a target was missed.
    ///
    /// # Errors
    /// Names the figures that missed their targets.
    pub fn verdict(self) -> anyhow::Result<()> {
        anyhow::ensure!(self.missed.is_empty(), "targets missed: {}", self.missed.join(", "));
        Ok(())
    }
}

/// The value below which the given share of the values lies. The values are sorted here.
pub fn percentile(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let last = values.len().saturating_sub(1);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
    let at = (last as f64 * share).round() as usize;
    values.get(at).copied().unwrap_or(f64::NAN)
}
