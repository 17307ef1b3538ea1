//! The plot of the README: what contention does to a fleet, under each policy.

use plotters::coord::Shift;
use plotters::prelude::*;

use super::night::Policy;

type Drawing<'a> = DrawingArea<SVGBackend<'a>, Shift>;
/// A policy, and for each number of jobs the two shares.
pub type Line = (Policy, Vec<(f64, f64, f64)>);

/// Two panels over the number of jobs: the share on target, and the share of time wasted.
pub fn draw(file: &str, lines: &[Line]) -> Result<(), Box<dyn std::error::Error>> {
    let root = SVGBackend::new(file, (960, 380)).into_drawing_area();
    root.fill(&WHITE)?;
    let (left, right) = root.split_horizontally(480);
    panel(&left, "Jobs on target, %", 104.0, lines, |point| point.1)?;
    panel(&right, "Worker and leader time wasted, %", 31.0, lines, |point| point.2)?;
    root.present()?;
    Ok(())
}

fn color(policy: Policy) -> RGBColor {
    // Distinct also to those who do not tell red from green.
    match policy {
        Policy::Classic => RGBColor(213, 94, 0),
        Policy::Prompt => RGBColor(86, 180, 233),
        Policy::Reserve => RGBColor(0, 90, 60),
    }
}

fn panel(
    area: &Drawing<'_>,
    title: &str,
    top: f64,
    lines: &[Line],
    value: impl Fn(&(f64, f64, f64)) -> f64,
) -> Result<(), Box<dyn std::error::Error>> {
    let mut chart = ChartBuilder::on(area)
        .caption(title, ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(44)
        .y_label_area_size(44)
        .build_cartesian_2d((2.0..64.0_f64).log_scale().base(2.0), -top / 50.0..top)?;
    chart
        .configure_mesh()
        .x_desc("jobs of 1 to 4 workers at once, pool of 16")
        .x_labels(6)
        .y_labels(6)
        .x_label_formatter(&|x| format!("{x:.0}"))
        .y_label_formatter(&|y| format!("{y:.0}"))
        .light_line_style(WHITE)
        .label_style(("sans-serif", 13))
        .draw()?;
    for (policy, points) in lines {
        let style = color(*policy).stroke_width(3);
        let points: Vec<_> = points.iter().map(|point| (point.0, value(point))).collect();
        chart
            .draw_series(LineSeries::new(points, style))?
            .label(policy.as_str())
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 22, y)], style));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::MiddleLeft)
        .background_style(WHITE.mix(0.85))
        .border_style(BLACK.mix(0.3))
        .label_font(("sans-serif", 14))
        .draw()?;
    Ok(())
}
