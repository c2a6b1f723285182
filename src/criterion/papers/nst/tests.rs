use super::*;
use crate::criterion::contract::Statistics;
use crate::statistic::Statistic;

/// Compares a gradient with central differences of the loss, entry by entry, in f64.
pub fn assert_gradient(student: &Tensor, tolerance: f64, loss: impl Fn(&Tensor) -> Loss) {
    let student = student.to_dtype(DType::F64).unwrap();
    let at = student.flatten_all().unwrap().to_vec1::<f64>().unwrap();
    let gradient = loss(&student).gradient.flatten_all().unwrap().to_vec1::<f64>().unwrap();
    let step = 1e-5;
    for i in 0..at.len() {
        let moved = |by: f64| {
            let mut values = at.clone();
            values[i] += by;
            loss(&Tensor::from_vec(values, student.shape(), &Device::Cpu).unwrap()).value
        };
        let slope = (moved(step) - moved(-step)) / (2.0 * step);
        assert!(
            (slope - gradient[i]).abs() < tolerance,
            "entry {i}: slope {slope}, gradient {}",
            gradient[i]
        );
    }
}

fn maps(shape: [usize; 4], seed: u32) -> Tensor {
    let mut state = seed;
    let values: Vec<f64> = (0..shape.iter().product())
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            f64::from(state >> 8) / f64::from(1 << 24) - 0.4
        })
        .collect();
    Tensor::from_vec(values, &shape, &Device::Cpu).unwrap()
}

fn flat(tensor: &Tensor) -> Vec<f64> {
    tensor.flatten_all().unwrap().to_vec1::<f64>().unwrap()
}

const KERNELS: [Kernel; 6] = [
    Kernel::Linear,
    Kernel::Poly { degree: 2, constant: 0.0 },
    Kernel::Poly { degree: 2, constant: 0.7 },
    Kernel::Poly { degree: 3, constant: 0.5 },
    Kernel::Gauss { sigma: Sigma::Fixed(0.8) },
    Kernel::Poly { degree: 1, constant: 1.0 },
];

#[test]
fn gradients_match_finite_differences() {
    // one side is larger in height, the other in width; more positions than channels, and fewer
    let pairs = [
        (maps([2, 3, 5, 3], 1), maps([2, 4, 3, 4], 2)),
        (maps([2, 5, 2, 3], 1), maps([2, 4, 3, 2], 2)),
    ];
    for (kernel, (student, teacher)) in
        KERNELS.into_iter().flat_map(|kernel| pairs.iter().map(move |pair| (kernel, pair)))
    {
        assert_gradient(student, 1e-7, |s| nst(s, teacher, kernel).unwrap());
        for normalization in [Normalization::Clamped, Normalization::Rsqrt] {
            let options = NstOptions { kernel, normalization, teacher_term: false };
            assert_gradient(student, 1e-7, |s| nst_with(s, teacher, &options).unwrap());
        }
    }
}

#[test]
fn automatic_widths_are_detached() {
    let (student, teacher) = (maps([2, 3, 4, 4], 1), maps([2, 4, 4, 4], 2));
    let (s, t) = (flat(&student), flat(&teacher));
    let s = Maps::new(Values::Own(&s), [3, 4, 4], [4, 4]);
    let t = Maps::new(Values::Own(&t), [4, 4, 4], [4, 4]);
    let options = NstOptions::from(Kernel::Linear);
    let each = [0, 1].map(|b| Scratch::default().load(&s, Some(&t), b, &options).variance());
    for sigma in [Sigma::AutoSample, Sigma::AutoBatch] {
        let widths =
            if sigma == Sigma::AutoBatch { [f64::midpoint(each[0], each[1]); 2] } else { each };
        let one = |b: usize, sigma: f64| {
            let at = |x: &Tensor| x.narrow(0, b, 1).unwrap();
            nst(&at(&student), &at(&teacher), Kernel::Gauss { sigma: Sigma::Fixed(sigma) }).unwrap()
        };
        let whole = nst(&student, &teacher, Kernel::Gauss { sigma }).unwrap();
        let parts: Vec<Loss> = (0..2).map(|b| one(b, widths[b].sqrt())).collect();
        assert!((whole.value - f64::midpoint(parts[0].value, parts[1].value)).abs() < 1e-12);
        let expected =
            (Tensor::cat(&[&parts[0].gradient, &parts[1].gradient], 0).unwrap() * 0.5).unwrap();
        let off = (whole.gradient - expected)
            .unwrap()
            .abs()
            .unwrap()
            .max_all()
            .unwrap()
            .to_scalar::<f64>()
            .unwrap();
        assert!(off < 1e-12, "{off}");
    }
}

#[test]
fn a_dead_channel_has_no_gradient() {
    let mut values = maps([1, 2, 2, 2], 5).flatten_all().unwrap().to_vec1::<f64>().unwrap();
    values[..4].fill(0.0);
    let student =
        Tensor::from_vec(values, (1, 2, 2, 2), &Device::Cpu).unwrap().to_dtype(DType::F32).unwrap();
    for kernel in KERNELS.into_iter().chain([Kernel::Gauss { sigma: Sigma::AutoSample }]) {
        let loss = nst(&student, &maps([1, 3, 2, 2], 6), kernel).unwrap();
        let gradient = loss.gradient.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(gradient[..4], [0.0; 4], "{kernel:?}");
        assert!(loss.value.is_finite() && gradient.iter().all(|g| g.is_finite()), "{kernel:?}");
    }
}

#[test]
fn coincident_maps_have_neither_loss_nor_gradient() {
    let map = Tensor::ones((1, 1, 2, 2), DType::F32, &Device::Cpu).unwrap();
    for sigma in [Sigma::AutoSample, Sigma::AutoBatch] {
        let loss = nst(&map, &map, Kernel::Gauss { sigma }).unwrap();
        assert!(loss.value.abs() < 1e-12);
        assert!(
            loss.gradient
                .flatten_all()
                .unwrap()
                .to_vec1::<f32>()
                .unwrap()
                .iter()
                .all(|g| *g == 0.0)
        );
    }
}

#[test]
fn threads_do_not_change_a_bit() {
    let (student, teacher) =
        (maps([5, 7, 6, 6], 1).to_dtype(DType::F32).unwrap(), maps([5, 9, 8, 8], 2));
    let deep = (maps([5, 30, 3, 3], 1).to_dtype(DType::F32).unwrap(), maps([5, 9, 3, 3], 2));
    for kernel in KERNELS.into_iter().chain([Kernel::Gauss { sigma: Sigma::AutoBatch }]) {
        for (student, teacher) in [(&student, &teacher), (&deep.0, &deep.1)] {
            let run = |threads: usize| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                pool.install(|| nst(student, teacher, kernel).unwrap())
            };
            let (one, three) = (run(1), run(3));
            assert_eq!(one.value.to_bits(), three.value.to_bits());
            let bits = |loss: &Loss| loss.gradient.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            assert_eq!(bits(&one), bits(&three));
        }
    }
}

#[test]
fn shapes_that_disagree_are_refused() {
    assert!(nst(&maps([2, 3, 2, 2], 1), &maps([3, 3, 2, 2], 1), Kernel::Linear).is_err());
    let flat = maps([2, 3, 2, 2], 1).flatten_from(1).unwrap();
    assert!(
        nst(&flat, &flat, Kernel::Linear)
            .unwrap_err()
            .to_string()
            .contains("[batch, channels, height, width]")
    );
}

/// The definition, evaluated pair by pair.
fn defined(student: &Tensor, teacher: &Tensor, [degree, constant]: [i32; 2]) -> f64 {
    let unit = |maps: &Tensor, b: usize| -> Vec<Vec<f64>> {
        let (_, channels, height, width) = maps.dims4().unwrap();
        let all = flat(&maps.to_dtype(DType::F64).unwrap());
        let sample = &all[b * channels * height * width..][..channels * height * width];
        let norm = |map: &[f64]| map.iter().map(|v| v * v).sum::<f64>().sqrt().max(1e-12);
        sample
            .chunks_exact(height * width)
            .map(|map| map.iter().map(|v| v / norm(map)).collect())
            .collect()
    };
    let mean = |a: &[Vec<f64>], b: &[Vec<f64>]| {
        let k = |x: &[f64], y: &[f64]| {
            (x.iter().zip(y).map(|(x, y)| x * y).sum::<f64>() + f64::from(constant)).powi(degree)
        };
        a.iter().flat_map(|x| b.iter().map(move |y| k(x, y))).sum::<f64>()
            / count(a.len() * b.len())
    };
    let batch = student.dims()[0];
    let samples = (0..batch).map(|b| {
        let (s, t) = (unit(student, b), unit(teacher, b));
        mean(&s, &s) + mean(&t, &t) - 2.0 * mean(&s, &t)
    });
    samples.sum::<f64>() / count(batch)
}

#[test]
fn both_forms_equal_the_definition() {
    for (shape_s, shape_t) in [
        ([2, 3, 4, 4], [2, 5, 4, 4]),
        ([2, 30, 3, 3], [2, 80, 3, 3]),
        ([1, 70, 12, 12], [1, 130, 12, 12]),
    ] {
        let (student, teacher) = (maps(shape_s, 3), maps(shape_t, 4));
        for constant in [0, 2] {
            let expected = defined(&student, &teacher, [2, constant]);
            let kernel = Kernel::Poly { degree: 2, constant: f64::from(constant) };
            let found = nst(&student, &teacher, kernel).unwrap().value;
            assert!(
                (found - expected).abs() < 1e-11 * (1.0 + expected.abs()),
                "{shape_s:?} {constant}: {found} for {expected}"
            );
            let dropped = NstOptions { teacher_term: false, ..kernel.into() };
            let found = nst_with(&student, &teacher, &dropped).unwrap().value;
            // the mean of the teacher's own kernel is that of a pair with itself on one side
            let own = expected - defined_without_teacher(&student, &teacher, constant);
            assert!(
                (found - (expected - own)).abs() < 1e-11 * (1.0 + own.abs()),
                "{shape_s:?} {constant} without the teacher's term"
            );
        }
    }
}

fn defined_without_teacher(student: &Tensor, teacher: &Tensor, constant: i32) -> f64 {
    let kernel = Kernel::Poly { degree: 2, constant: f64::from(constant) };
    // uses the channel form, whatever the sizes
    let (s, t) = (flat(student), flat(teacher));
    let shape = |t: &Tensor| [t.dims()[1], t.dims()[2], t.dims()[3]];
    let size = [student.dims()[2], student.dims()[3]];
    let (s, t) = (
        Maps::new(Values::Own(&s), shape(student), size),
        Maps::new(Values::Own(&t), shape(teacher), size),
    );
    let mut scratch = Scratch::default();
    let samples = (0..student.dims()[0]).map(|b| {
        let mut pair = scratch.load(&s, Some(&t), b, &kernel.into());
        let kernel = channel::Scalar::new(kernel, &pair, None);
        channel::sample(&mut pair, kernel, false, 1.0)
    });
    samples.sum::<f64>() / count(student.dims()[0])
}

#[test]
fn a_small_loss_keeps_its_digits() {
    // the student is the teacher plus a small offset, rounded to f32; by channels the three terms
    // are separate sums, so the loss loses precision as its square; the allowed relative error is
    // about the relative offset
    let cases = [
        ([2, 16, 16, 16], 1e-2, 1e-2),
        ([1, 64, 40, 40], 1e-2, 1e-2),
        ([2, 64, 8, 8], 1e-3, 2e-3),
        ([2, 256, 7, 7], 1e-3, 2e-3),
    ];
    for (shape, distance, allowed) in cases {
        let teacher = maps(shape, 7).relu().unwrap();
        let student = (&teacher + (maps(shape, 8) * distance).unwrap()).unwrap().relu().unwrap();
        let [student, teacher] = [student, teacher].map(|t| t.to_dtype(DType::F32).unwrap());
        let wide = |t: &Tensor| t.to_dtype(DType::F64).unwrap();
        let kernel = Kernel::Poly { degree: 2, constant: 0.0 };
        let (found, exact) = (
            nst(&student, &teacher, kernel).unwrap(),
            nst(&wide(&student), &wide(&teacher), kernel).unwrap(),
        );
        let off = (found.value / exact.value - 1.0).abs();
        let error = (wide(&found.gradient) - &exact.gradient)
            .unwrap()
            .abs()
            .unwrap()
            .max_all()
            .unwrap()
            .to_scalar::<f64>()
            .unwrap();
        let largest = exact.gradient.abs().unwrap().max_all().unwrap().to_scalar::<f64>().unwrap();
        assert!(
            off < allowed && error / largest < 1e-3,
            "{shape:?}: loss {:e} off by {off:e}, gradient by {:e}",
            exact.value,
            error / largest
        );
    }
}

#[test]
fn half_precision_teachers_are_read_as_they_are() {
    let student = maps([2, 3, 4, 4], 1).to_dtype(DType::F32).unwrap();
    let half = maps([2, 5, 4, 6], 2).to_dtype(DType::F16).unwrap();
    for kernel in KERNELS {
        let (a, b) = (
            nst(&student, &half, kernel).unwrap(),
            nst(&student, &half.to_dtype(DType::F32).unwrap(), kernel).unwrap(),
        );
        assert_eq!(a.value.to_bits(), b.value.to_bits());
        assert_eq!(
            flat(&a.gradient.to_dtype(DType::F64).unwrap()),
            flat(&b.gradient.to_dtype(DType::F64).unwrap())
        );
    }
}

#[test]
fn a_weight_scales_the_gradient_alone() {
    for shape in [[2, 3, 4, 4], [2, 30, 3, 3]] {
        for kernel in KERNELS {
            let (student, teacher) = (maps(shape, 1), maps(shape, 2));
            let (one, many) = (
                nst(&student, &teacher, kernel).unwrap(),
                nst_weighted(&student, &teacher, &kernel.into(), 50.0).unwrap(),
            );
            assert_eq!(one.value.to_bits(), many.value.to_bits());
            for (a, b) in flat(&one.gradient).iter().zip(flat(&many.gradient)) {
                assert!((50.0 * a - b).abs() < 1e-9, "{kernel:?}: {a} {b}");
            }
        }
    }
}

/// The statistics of a teacher's maps as a cache holds them: packed Gram matrices and mean maps, in
/// f32.
fn statistics(teacher: &Tensor, size: [usize; 2]) -> [Tensor; 2] {
    let (batch, channels, height, width) = teacher.dims4().unwrap();
    let values =
        teacher.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let maps = crate::statistic::Maps {
        layout: crate::array::Layout::Nchw,
        channels,
        from: [height, width],
        size,
    };
    [Statistic::Gram, Statistic::Mean].map(|statistic| {
        let crate::array::Values::F32(found) =
            crate::statistic::compute(statistic, &values, &maps).unwrap()
        else {
            panic!("f32")
        };
        let shape = maps.stored().row(statistic).unwrap().0;
        Tensor::from_vec(found, [&[batch], shape.as_slice()].concat(), &Device::Cpu).unwrap()
    })
}

#[test]
fn statistics_give_the_loss_of_the_maps() {
    // the teacher's maps are larger, of equal size, and smaller; deep and shallow; with a dead
    // channel
    let cases =
        [([2, 3, 4, 5], [2, 7, 8, 5]), ([2, 6, 4, 4], [2, 9, 4, 4]), ([2, 5, 7, 6], [2, 40, 3, 6])];
    for (shape_s, shape_t) in cases {
        let student = maps(shape_s, 1);
        // rounded to f32, so that both sides see the same teacher
        let teacher = maps(shape_t, 2)
            .relu()
            .unwrap()
            .to_dtype(DType::F32)
            .unwrap()
            .to_dtype(DType::F64)
            .unwrap();
        let size = [shape_s[2].min(shape_t[2]), shape_s[3].min(shape_t[3])];
        let [gram, mean] = statistics(&teacher, size);
        for kernel in [
            Kernel::Linear,
            Kernel::Poly { degree: 2, constant: 0.0 },
            Kernel::Poly { degree: 2, constant: 0.7 },
        ] {
            for teacher_term in [true, false] {
                let options = NstOptions { teacher_term, ..kernel.into() };
                let known =
                    Statistics { size, gram: Some(&gram), mean: Some(&mean), attention: None };
                let exact = nst_weighted(&student, &teacher, &options, 3.0).unwrap();
                let found = nst_from(&student, &known, &options, 3.0).unwrap();
                assert!(
                    (found.value - exact.value).abs() <= 1e-6 * exact.value.abs(),
                    "{kernel:?}: {} for {}",
                    found.value,
                    exact.value
                );
                let off = (&found.gradient - &exact.gradient)
                    .unwrap()
                    .abs()
                    .unwrap()
                    .max_all()
                    .unwrap()
                    .to_scalar::<f64>()
                    .unwrap();
                let largest =
                    exact.gradient.abs().unwrap().max_all().unwrap().to_scalar::<f64>().unwrap();
                assert!(off <= 1e-6 * largest, "{kernel:?}: gradient off by {off} of {largest}");
                assert_gradient(&student, 1e-7, |s| nst_from(s, &known, &options, 1.0).unwrap());
                let single =
                    nst_from(&student.to_dtype(DType::F32).unwrap(), &known, &options, 3.0)
                        .unwrap();
                assert!(
                    (single.value - exact.value).abs() <= 1e-4 * exact.value.abs(),
                    "{kernel:?} in f32"
                );
            }
        }
    }
}

#[test]
fn statistics_that_do_not_serve_are_refused() {
    let [gram, mean] = statistics(&maps([2, 7, 4, 5], 2), [4, 5]);
    let squared = NstOptions::from(Kernel::Poly { degree: 2, constant: 0.0 });
    let refused = |student: [usize; 4], known: &Statistics<'_>, options: &NstOptions| {
        nst_from(&maps(student, 1), known, options, 1.0).unwrap_err().to_string()
    };
    let both = Statistics { size: [4, 5], gram: Some(&gram), mean: Some(&mean), attention: None };
    assert!(
        refused([2, 3, 4, 4], &both, &squared).contains("expected maps of at least 4x5, found 4x4")
    );
    assert!(refused([3, 3, 4, 5], &both, &squared).contains("of one batch"));
    assert!(
        refused([2, 3, 4, 5], &Statistics { gram: None, ..both }, &squared)
            .contains("the Gram matrix")
    );
    let with_constant = NstOptions::from(Kernel::Poly { degree: 2, constant: 1.0 });
    assert!(
        refused([2, 3, 4, 5], &Statistics { mean: None, ..both }, &with_constant)
            .contains("the mean")
    );
    assert!(
        refused([2, 3, 6, 6], &Statistics { size: [5, 5], ..both }, &squared).contains("[2, 325]")
    );
    for kernel in
        [Kernel::Poly { degree: 3, constant: 0.0 }, Kernel::Gauss { sigma: Sigma::AutoSample }]
    {
        assert!(refused([2, 3, 4, 5], &both, &kernel.into()).contains("needs the maps"));
    }
    let rsqrt = NstOptions { normalization: Normalization::Rsqrt, ..squared };
    assert!(refused([2, 3, 4, 5], &both, &rsqrt).contains("needs the maps"));
}
