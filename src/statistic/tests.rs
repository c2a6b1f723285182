use super::*;
use crate::array::{Array, Layout};

/// Activations like a rectifier's, with channels that are all zero.
fn activations(samples: usize, channels: usize, area: usize, seed: u32) -> Vec<f32> {
    let mut state = seed;
    let value = |i: usize| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let value = f64::from(state >> 8) / f64::from(1 << 24) - 0.4;
        if i / area % channels == 1 { 0.0 } else { round(value.max(0.0)) }
    };
    (0..samples * channels * area).map(value).collect()
}

/// `[channels, area]` of every sample to `[area, channels]`.
fn turned(values: &[f32], channels: usize, area: usize) -> Vec<f32> {
    let sample = |values: &[f32]| {
        (0..area * channels)
            .map(|i| values[i % channels * area + i / channels])
            .collect::<Vec<f32>>()
    };
    values.chunks(channels * area).flat_map(sample).collect()
}

fn floats(values: Values) -> Vec<f32> {
    match values {
        Values::F32(values) => values,
        other => panic!("expected f32, found {other:?}"),
    }
}

const MAPS: Maps = Maps { layout: Layout::Nchw, channels: 7, from: [9, 11], size: [9, 11] };

/// By the definitions, in f64, one line each.
fn defined(statistic: Statistic, sample: &[f32], channels: usize) -> Vec<f64> {
    let positions = sample.len() / channels;
    let map = |c: usize| sample[c * positions..][..positions].iter().map(|&x| f64::from(x));
    let norms: Vec<f64> =
        (0..channels).map(|c| map(c).map(|x| x * x).sum::<f64>().sqrt().max(DEAD_NORM)).collect();
    let x = |c: usize, p: usize| f64::from(sample[c * positions + p]);
    let unit = |c: usize, p: usize| x(c, p) / norms[c];
    let mean = |f: &dyn Fn(usize) -> f64| (0..channels).map(f).sum::<f64>() / count(channels);
    let pairs = (0..positions).flat_map(|i| (0..=i).map(move |j| (i, j)));
    match statistic {
        Statistic::Gram => pairs.map(|(i, j)| mean(&|c| unit(c, i) * unit(c, j))).collect(),
        Statistic::Mean => (0..positions).map(|p| mean(&|c| unit(c, p))).collect(),
        Statistic::Attention => (0..positions).map(|p| mean(&|c| x(c, p) * x(c, p))).collect(),
        Statistic::Vector => {
            (0..channels).map(|c| map(c).sum::<f64>() / count(positions)).collect()
        }
        Statistic::Features | Statistic::Sign => Vec::new(),
    }
}

#[test]
fn statistics_are_their_definitions_rounded_once() {
    // more positions than a block of the Gram matrix has rows
    let values = activations(3, MAPS.channels, 99, 1);
    for statistic in [Statistic::Gram, Statistic::Mean, Statistic::Attention, Statistic::Vector] {
        let found = floats(compute(statistic, &values, &MAPS).unwrap());
        let expected: Vec<f64> =
            values.chunks(7 * 99).flat_map(|sample| defined(statistic, sample, 7)).collect();
        assert_eq!(found.len(), expected.len(), "{statistic:?}");
        for (found, expected) in found.iter().zip(expected) {
            // half a unit in the last place of f32, and f64's own error
            assert!(
                (f64::from(*found) - expected).abs() <= expected.abs() * 6e-8 + 1e-45,
                "{statistic:?}: {found} for {expected}"
            );
        }
    }
}

#[test]
fn the_axis_order_changes_nothing_but_the_order_of_signs() {
    let (values, last) = (activations(2, 7, 99, 2), Maps { layout: Layout::Nhwc, ..MAPS });
    let moved = turned(&values, 7, 99);
    for statistic in [Statistic::Gram, Statistic::Mean, Statistic::Attention, Statistic::Vector] {
        for size in [[9, 11], [4, 3]] {
            let [first, last] = [MAPS, last].map(|maps| Maps { size, ..maps });
            assert_eq!(
                compute(statistic, &values, &first).unwrap(),
                compute(statistic, &moved, &last).unwrap(),
                "{statistic:?}"
            );
        }
    }
    for (values, maps) in [(&values, MAPS), (&moved, last)] {
        let Values::U8(bytes) = compute(Statistic::Sign, values, &maps).unwrap() else {
            panic!("bytes")
        };
        let row = (7usize * 99).div_ceil(8);
        for (bytes, sample) in bytes.chunks(row).zip(values.chunks(7 * 99)) {
            let bit = |i: usize| bytes[i / 8] >> (i % 8) & 1 == 1;
            assert!(sample.iter().enumerate().all(|(i, &x)| bit(i) == (x > 0.0)));
            assert!((7 * 99..row * 8).all(|i| !bit(i)), "padding");
        }
    }
}

#[test]
fn pooling_precedes_normalization() {
    let values = activations(2, 7, 99, 3);
    let small = Maps { size: [4, 3], ..MAPS };
    let array = Array::new(vec![2, 7, 9, 11], Values::F32(values.clone())).unwrap();
    let pooled = adaptive_average_pool(&array, Layout::Nchw, [4, 3]).unwrap();
    let of_pooled = Maps { from: [4, 3], ..small };
    for statistic in [Statistic::Gram, Statistic::Mean, Statistic::Attention, Statistic::Vector] {
        let found = floats(compute(statistic, &values, &small).unwrap());
        let expected = floats(compute(statistic, pooled.as_f32().unwrap(), &of_pooled).unwrap());
        // the pooled array was rounded to f32
        assert!(
            found.iter().zip(&expected).all(|(a, b)| (a - b).abs() <= 1e-6 * b.abs().max(1e-6)),
            "{statistic:?}"
        );
    }
}

#[test]
fn dead_and_extreme_channels_are_finite() {
    for value in [0.0, 1e-38, 1e-20, 1e15] {
        let values = vec![value; 7 * 99];
        for statistic in [Statistic::Gram, Statistic::Mean, Statistic::Attention, Statistic::Vector]
        {
            let found = floats(compute(statistic, &values, &MAPS).unwrap());
            assert!(found.iter().all(|v| v.is_finite()), "{statistic:?} of {value}");
            assert!(value != 0.0 || found.iter().all(|v| *v == 0.0), "{statistic:?} of {value}");
        }
    }
}

#[test]
fn threads_do_not_change_a_bit() {
    let values = activations(9, 7, 99, 4);
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            Statistic::ALL[1..]
                .iter()
                .map(|&s| compute(s, &values, &MAPS).unwrap())
                .collect::<Vec<_>>()
        })
    };
    assert_eq!(run(1), run(3));
}

#[test]
fn a_packed_triangle_unpacks_to_the_lower_one() {
    let mut matrix = vec![9.0; 9];
    unpack(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], 3, -1.0, &mut matrix);
    assert_eq!(matrix, [-1.0, 9.0, 9.0, -2.0, -3.0, 9.0, -4.0, -5.0, -6.0]);
}

#[test]
fn what_is_no_sample_is_refused() {
    assert!(compute(Statistic::Mean, &[0.0; 7 * 99 + 1], &MAPS).is_err());
    assert!(compute(Statistic::Features, &[0.0; 7 * 99], &MAPS).is_err());
    assert!(compute(Statistic::Mean, &[], &Maps { channels: 0, ..MAPS }).is_err());
    assert!(compute(Statistic::Gram, &[0.0; 4], &Maps { from: [usize::MAX, 2], ..MAPS }).is_err());
}
