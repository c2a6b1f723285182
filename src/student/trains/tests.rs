use super::*;

#[test]
fn filters_of_a_blur_are_equal_and_those_of_a_layer_are_not() {
    let shape = [2, 1, 1, 2];
    assert!(has_equal_rows(&shape, &[0.25, 0.5, 0.25, 0.5]));
    assert!(!has_equal_rows(&shape, &[0.25, 0.5, 0.25, 0.4]));
    // a layer that starts from zero
    assert!(!has_equal_rows(&shape, &[0.0; 4]));
    assert!(!has_equal_rows(&[1, 1, 1, 2], &[0.25, 0.5]));
    assert!(!has_equal_rows(&[], &[]));
}

#[test]
fn positions_of_sines_are_told_from_drawn_ones() {
    let positions = |f: &dyn Fn(f64, i32) -> f64| -> Vec<f64> {
        (0..49)
            .flat_map(|p| (0..32).map(move |k| (p, k)))
            .map(|(p, k)| f(f64::from(p), k))
            .collect()
    };
    // Vaswani et al. 2017: half sines, half cosines, of falling frequencies
    let table = positions(&|p, k| {
        let angle = p / 10_000f64.powf(f64::from(k / 2) / 16.0);
        if k % 2 == 0 { angle.sin() } else { angle.cos() }
    });
    assert!(is_sinusoid(&table));
    assert!(is_sinusoid(&positions(&|p, k| (p * 32.0 + f64::from(k)).sin())));
    // uniform in ±1, the same kept small, all one, all zero
    let drawn = positions(&|p, k| ((p * 12.9898 + f64::from(k) * 78.233).sin() * 43_758.5).fract());
    assert!(!is_sinusoid(&drawn));
    assert!(!is_sinusoid(&drawn.iter().map(|v| v * 0.02).collect::<Vec<_>>()));
    assert!(!is_sinusoid(&vec![1.0; 99]) && !is_sinusoid(&vec![0.0; 99]));
}
