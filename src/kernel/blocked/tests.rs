#![allow(
    clippy::similar_names,
    clippy::many_single_char_names,
    clippy::cast_possible_truncation,
    reason = "the names of the mathematics"
)]

use super::reference::{
    blocked, convolution, error, gradient, maps, numbers, to_blocked, values, view,
};
use super::simd::Level;
use super::*;

/// Geometry: images, channels, filters, groups, input, kernel, stride, dilation, padding above/left
/// and below/right.
#[allow(clippy::too_many_arguments, reason = "a row of a table")]
pub(super) fn conv(
    images: usize,
    channels: usize,
    filters: usize,
    groups: usize,
    input: [usize; 2],
    kernel: [usize; 2],
    stride: usize,
    dilation: usize,
    before: [usize; 2],
    after: [usize; 2],
) -> Conv {
    let size =
        |a: usize| (input[a] + before[a] + after[a] - dilation * (kernel[a] - 1) - 1) / stride + 1;
    Conv {
        images,
        channels,
        filters,
        groups,
        input,
        output: [size(0), size(1)],
        kernel,
        stride: [stride; 2],
        dilation: [dilation; 2],
        before,
    }
}

/// Random values of a block's lanes around `middle`, zero past `channels`.
fn per_channel<const N: usize>(channels: usize, middle: [f32; N], seed: u64) -> Vec<[Lanes; N]> {
    let values = numbers(channels * N, seed);
    let lanes = |block: usize, n: usize| {
        Lanes(std::array::from_fn(|l| {
            let c = block * LANES + l;
            if c < channels { 0.3f32.mul_add(values[c * N + n], middle[n]) } else { 0.0 }
        }))
    };
    (0..channels.div_ceil(LANES)).map(|b| std::array::from_fn(|n| lanes(b, n))).collect()
}

/// Compares a plan with the reference, with every form of view and gradient.
pub(super) fn check(c: &Conv, plan: &ConvPlan, seed: u64, tolerance: f64) {
    let [input, output] = maps(c);
    let (data, z, dy) =
        (blocked(&input, seed), blocked(&output, seed + 1), blocked(&output, seed + 2));
    let weight = numbers(c.filters * c.channels / c.groups * c.kernel[0] * c.kernel[1], seed + 3);
    let bias = numbers(c.filters, seed + 4);
    let (affine_in, affine_out) = (
        per_channel(c.channels, [1.0, 0.2], seed + 5),
        per_channel(c.filters, [1.0, 0.2], seed + 6),
    );
    let terms = per_channel(c.filters, [1.0, 0.1, 0.1], seed + 7);
    let mode = seed % 4;
    let x = MapView {
        data: &data,
        affine: (mode % 2 == 1).then_some(&affine_in[..]),
        clamp: [None, Some([0.0, f32::INFINITY]), Some([-0.5, 0.7]), None][mode as usize],
    };
    let clamp =
        [Some([0.0, 1.0]), Some([0.0, f32::INFINITY]), None, Some([-1.0, 1.0])][mode as usize];
    let through =
        (mode > 0).then_some(Through { z: &z, affine: &affine_out, clamp, terms: &terms });
    let dz = Gradient { dy: &dy, through };
    let bias = (mode > 1).then_some(&bias[..]);
    let [y_want, dx_want, dw_want] =
        convolution(c, &view(&input, &x), &weight, bias, &gradient(&output, &dz));

    let what = format!("{} {c:?} on {:?}, mode {mode}", plan.name(), plan.level);
    let mut y = vec![Lanes([f32::NAN; LANES]); output.len()];
    forward(plan, x, &weight, bias, &mut y);
    let e = error(&values(&output, &y), &y_want);
    assert!(e <= tolerance, "forward {e:e}: {what}");
    let mut again = vec![Lanes([f32::NAN; LANES]); output.len()];
    let moments = forward_with_moments(plan, x, &weight, bias, &mut again);
    let near = |a: f64, b: f64| (a - b).abs() <= 1e-5 * (1.0 + b.abs());
    let same = moments
        .iter()
        .zip(sums::moments(&output, &y))
        .all(|(a, b)| near(a.0, b.0) && near(a.1, b.1));
    assert!(again == y && moments.len() == c.filters && same, "moments: {what}");
    assert_eq!(
        to_blocked(&output, &values(&output, &y).iter().map(|&y| y as f32).collect::<Vec<_>>()),
        y,
        "lanes past the last: {what}"
    );

    let add = mode == 3;
    let before =
        if add { blocked(&input, seed + 8) } else { vec![Lanes([f32::NAN; LANES]); input.len()] };
    let dx_want: Vec<f64> = if add {
        values(&input, &before).iter().zip(&dx_want).map(|(a, b)| a + b).collect()
    } else {
        dx_want
    };
    let (mut dx, mut dw) = (before.clone(), vec![f32::NAN; weight.len()]);
    backward(plan, x, &weight, dz, Some((&mut dx, add)), Some(&mut dw));
    let e = error(&values(&input, &dx), &dx_want);
    assert!(e <= tolerance, "input gradient {e:e}: {what}");
    let wide: Vec<f64> = dw.iter().map(|&w| f64::from(w)).collect();
    let e = error(&wide, &dw_want);
    assert!(e <= tolerance, "weight gradient {e:e}: {what}");

    let (mut dx_alone, mut dw_alone) = (before, vec![f32::NAN; weight.len()]);
    backward(plan, x, &weight, dz, Some((&mut dx_alone, add)), None);
    backward(plan, x, &weight, dz, None, Some(&mut dw_alone));
    assert!(dx_alone == dx, "input gradient alone: {what}");
    assert!(
        error(&dw_alone.iter().map(|&w| f64::from(w)).collect::<Vec<_>>(), &dw_want) <= tolerance,
        "weight gradient alone: {what}"
    );
}

/// Odd sizes, non-square maps, partly filled blocks, all strides, dilation, uneven padding,
/// groups.
pub(super) fn geometries() -> Vec<Conv> {
    vec![
        conv(1, 3, 5, 1, [1, 1], [1, 1], 1, 1, [0, 0], [0, 0]),
        conv(2, 40, 24, 1, [5, 7], [1, 1], 1, 1, [0, 0], [0, 0]),
        conv(3, 16, 48, 1, [17, 19], [1, 1], 1, 1, [0, 0], [0, 0]),
        conv(2, 8, 40, 1, [9, 6], [1, 1], 2, 1, [0, 0], [0, 0]),
        conv(2, 24, 8, 1, [7, 7], [1, 1], 3, 1, [1, 1], [1, 1]),
        conv(1, 5, 3, 1, [1, 1], [3, 3], 1, 1, [1, 1], [1, 1]),
        conv(2, 16, 16, 1, [6, 15], [2, 2], 1, 1, [0, 1], [1, 0]),
        conv(1, 24, 40, 1, [8, 8], [2, 2], 2, 1, [0, 0], [0, 0]),
        conv(3, 24, 40, 1, [8, 9], [3, 3], 2, 1, [1, 1], [1, 1]),
        conv(2, 16, 32, 1, [8, 8], [3, 3], 2, 1, [0, 0], [1, 1]),
        conv(1, 5, 24, 1, [11, 10], [3, 3], 3, 1, [1, 0], [0, 2]),
        conv(2, 8, 8, 1, [9, 13], [3, 3], 1, 2, [2, 2], [2, 2]),
        conv(1, 40, 5, 1, [13, 9], [3, 3], 2, 2, [2, 1], [1, 2]),
        conv(1, 3, 24, 1, [15, 17], [5, 5], 1, 1, [2, 2], [2, 2]),
        conv(1, 8, 16, 1, [12, 33], [5, 5], 2, 1, [2, 2], [2, 2]),
        conv(1, 3, 40, 1, [21, 23], [7, 7], 2, 1, [3, 3], [3, 3]),
        conv(2, 24, 24, 1, [5, 17], [1, 7], 1, 1, [0, 3], [0, 3]),
        conv(2, 32, 64, 2, [7, 6], [3, 3], 1, 1, [1, 1], [1, 1]),
        conv(1, 96, 48, 3, [6, 6], [3, 3], 2, 1, [1, 1], [1, 1]),
        conv(1, 16, 16, 1, [40, 70], [3, 3], 1, 1, [0, 0], [0, 0]),
    ]
}

/// 3x3 filters of stride one, which Winograd's algorithms support.
pub(super) fn three_by_three() -> Vec<Conv> {
    vec![
        conv(1, 3, 5, 1, [3, 3], [3, 3], 1, 1, [1, 1], [1, 1]),
        conv(3, 40, 24, 1, [7, 9], [3, 3], 1, 1, [1, 1], [1, 1]),
        conv(2, 16, 48, 1, [4, 5], [3, 3], 1, 1, [1, 1], [1, 1]),
        conv(1, 24, 16, 1, [21, 18], [3, 3], 1, 1, [1, 1], [1, 1]),
        conv(2, 8, 40, 1, [10, 11], [3, 3], 1, 1, [0, 0], [0, 0]),
        conv(1, 32, 32, 1, [33, 40], [3, 3], 1, 1, [2, 1], [0, 2]),
        conv(5, 16, 32, 1, [8, 8], [3, 3], 1, 1, [1, 1], [1, 1]),
        conv(2, 40, 40, 1, [6, 13], [3, 3], 1, 1, [2, 2], [2, 2]),
    ]
}

#[test]
fn convolutions_equal_the_definition() {
    for level in Level::all() {
        for (i, c) in geometries().iter().chain(&three_by_three()).enumerate() {
            for mode in 0..4 {
                check(c, &plan_on(c, Precision::Strict, level).unwrap(), 4 * i as u64 + mode, 1e-6);
            }
        }
    }
}

#[test]
fn direct_three_by_three_equals_the_definition() {
    for (i, c) in three_by_three().iter().enumerate() {
        check(c, &ConvPlan::direct(c).unwrap(), i as u64, 1e-6);
    }
}

#[test]
fn fast_convolutions_equal_the_definition() {
    for level in Level::all() {
        for (i, c) in three_by_three().iter().enumerate() {
            for mode in 0..4 {
                check(c, &plan_on(c, Precision::Fast, level).unwrap(), 4 * i as u64 + mode, 5e-6);
            }
        }
    }
}

#[test]
fn depthwise_convolutions_equal_the_definition() {
    let table = [
        conv(3, 24, 24, 24, [7, 9], [3, 3], 1, 1, [1, 1], [1, 1]),
        conv(2, 40, 40, 40, [11, 8], [3, 3], 2, 1, [1, 1], [1, 1]),
        conv(1, 5, 5, 5, [9, 33], [5, 5], 1, 1, [2, 2], [2, 2]),
        conv(2, 16, 16, 16, [10, 12], [5, 5], 2, 1, [2, 1], [1, 2]),
        conv(1, 8, 8, 8, [1, 1], [3, 3], 1, 1, [1, 1], [1, 1]),
        conv(1, 17, 17, 17, [13, 14], [3, 3], 3, 2, [2, 2], [0, 1]),
        conv(1, 16, 16, 16, [40, 50], [7, 7], 1, 1, [3, 3], [3, 3]),
    ];
    for level in Level::all() {
        for (i, c) in table.iter().enumerate() {
            for mode in 0..4 {
                check(c, &plan_on(c, Precision::Strict, level).unwrap(), 4 * i as u64 + mode, 1e-6);
            }
        }
    }
}

#[test]
fn large_weights_are_split_by_blocks() {
    for c in [
        conv(2, 256, 272, 1, [3, 5], [3, 3], 1, 1, [1, 1], [1, 1]),
        conv(3, 400, 200, 1, [3, 3], [1, 1], 1, 1, [0, 0], [0, 0]),
        conv(2, 264, 256, 1, [5, 6], [3, 3], 2, 1, [1, 1], [1, 1]),
    ] {
        for mode in 0..4 {
            check(&c, &plan(&c, Precision::Strict).unwrap(), mode, 1e-6);
            check(&c, &plan(&c, Precision::Fast).unwrap(), mode, 5e-6);
        }
    }
}

#[test]
fn bits_do_not_depend_on_threads() {
    for c in [
        conv(5, 24, 40, 1, [9, 12], [3, 3], 1, 1, [1, 1], [1, 1]),
        conv(5, 24, 40, 1, [9, 12], [3, 3], 2, 1, [1, 1], [1, 1]),
        conv(3, 256, 272, 1, [5, 4], [3, 3], 1, 1, [1, 1], [1, 1]),
        conv(5, 24, 24, 24, [9, 12], [3, 3], 1, 1, [1, 1], [1, 1]),
    ] {
        for precision in [Precision::Strict, Precision::Fast] {
            let [input, output] = maps(&c);
            let (x, dy, weight) = (
                blocked(&input, 1),
                blocked(&output, 2),
                numbers(c.filters * c.channels / c.groups * 9, 3),
            );
            let run = |threads| {
                let plan = plan(&c, precision).unwrap();
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                let (mut y, mut dx, mut dw) = (dy.clone(), x.clone(), weight.clone());
                pool.install(|| forward(&plan, MapView::plain(&x), &weight, None, &mut y));
                pool.install(|| {
                    backward(
                        &plan,
                        MapView::plain(&x),
                        &weight,
                        Gradient::plain(&dy),
                        Some((&mut dx, false)),
                        Some(&mut dw),
                    );
                });
                (y, dx, dw)
            };
            let one = run(1);
            assert!(one == run(2) && one == run(3), "{c:?}");
        }
    }
}

#[test]
fn odd_groups_have_no_plan() {
    assert!(
        plan(&conv(1, 12, 12, 2, [5, 5], [3, 3], 1, 1, [1, 1], [1, 1]), Precision::Fast).is_none()
    );
}
