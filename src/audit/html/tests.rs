use super::charts;
use crate::audit::report::Histogram;

#[test]
fn a_histogram_without_rows_is_still_a_drawing() {
    let empty = Histogram { edges: vec![0.0, 1.0], members: vec![0], non_members: vec![0] };
    let drawn = charts::histogram(&empty).into_string();
    assert!(drawn.contains("<svg") && !drawn.contains("NaN"), "{drawn}");
    let none = Histogram { edges: Vec::new(), members: Vec::new(), non_members: Vec::new() };
    assert!(charts::histogram(&none).into_string().contains("nothing to draw"));
}
