//! What is printed: a table of medians for people, or every sample on a line for a program.

/// How to print.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    Medians,
    Samples,
}

/// Samples of what is measured together.
pub(crate) struct Table {
    title: String,
    unit: &'static str,
    rows: Vec<(&'static str, Vec<f64>)>,
}

impl Table {
    pub(crate) fn new(
        title: &str,
        unit: &'static str,
        names: impl IntoIterator<Item = &'static str>,
    ) -> Table {
        let rows = names.into_iter().map(|name| (name, Vec::new())).collect();
        Table { title: title.to_owned(), unit, rows }
    }

    pub(crate) fn add(&mut self, row: usize, sample: f64) {
        self.rows[row].1.push(sample);
    }

    /// Prints it; if wanted with each row's ratio to the first one, the median of the rounds' own ratios.
    pub(crate) fn print(&self, form: Form, ratios: bool) {
        if form == Form::Samples {
            for (name, samples) in &self.rows {
                samples.iter().for_each(|sample| println!("{}\t{name}\t{sample}", self.title));
            }
            return;
        }
        println!("{}{}:", self.title, if ratios { " (ratio to the first)" } else { "" });
        for (name, samples) in &self.rows {
            let [low, median, high] = [25, 50, 75].map(|percent| percentile(samples, percent));
            let of_first: Vec<f64> =
                samples.iter().zip(&self.rows[0].1).map(|(own, first)| own / first).collect();
            let ratio = if ratios { format!("{:8.2}", percentile(&of_first, 50)) } else { String::new() };
            println!("  {name:34} {median:8.2} {} ({low:.2} to {high:.2}){ratio}", self.unit);
        }
    }
}

/// The sample that `percent` of them are not above.
fn percentile(samples: &[f64], percent: usize) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[(sorted.len() - 1) * percent / 100]
}
