//! The printed result: what was measured, against what, and the figure to reach.

use std::time::Duration;

pub struct Table {
    title: &'static str,
    rows: Vec<[String; 4]>,
}

impl Table {
    pub fn new(title: &'static str) -> Self {
        let head = ["what", "measured", "figure", "detail"].map(str::to_owned);
        Self { title, rows: vec![head] }
    }

    pub fn row(&mut self, what: &str, measured: String, figure: &str, detail: String) {
        println!("{what}: {measured} ({detail})");
        self.rows.push([what.to_owned(), measured, figure.to_owned(), detail]);
    }

    pub fn print(&self) {
        let width =
            |column: usize| self.rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let widths = [width(0), width(1), width(2), width(3)];
        println!("\n## {}\n", self.title);
        for (n, row) in self.rows.iter().enumerate() {
            let cells: Vec<_> =
                row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
            println!("| {} |", cells.join(" | "));
            if n == 0 {
                println!("|{}|", widths.map(|width| "-".repeat(width + 2)).join("|"));
            }
        }
    }
}

pub fn median(values: &[Duration]) -> Duration {
    percentile(values, 50)
}

pub fn percentile(values: &[Duration], percent: usize) -> Duration {
    let mut sorted = values.to_vec();
    sorted.sort();
    sorted[(sorted.len() - 1) * percent / 100]
}

#[allow(dead_code, reason = "one of the benchmarks has no ratio")]
pub fn ratio(a: Duration, b: Duration) -> f64 {
    a.as_secs_f64() / b.as_secs_f64()
}
