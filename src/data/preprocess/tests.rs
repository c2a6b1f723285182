use super::*;
use crate::data::preprocessing::Interpolation;

fn shape(dims: [usize; 4]) -> Vec<Dim> {
    // 0 stands for an open axis
    dims.map(|d| if d == 0 { Dim::Open } else { Dim::Fixed(d) }).to_vec()
}

fn with(preset: &str) -> PreprocessOptions {
    PreprocessOptions { preset: Some(preset.into()), ..PreprocessOptions::default() }
}

fn resolved(
    options: &PreprocessOptions,
    dims: [usize; 4],
    common: Option<[usize; 2]>,
) -> Preprocess {
    resolve(options, Dtype::F32, &shape(dims), common).unwrap().0
}

fn refused(options: &PreprocessOptions, dims: [usize; 4]) -> String {
    resolve(options, Dtype::F32, &shape(dims), None).unwrap_err().to_string()
}

#[test]
fn nothing_given_takes_all_from_the_model_and_warns_once() {
    let none = PreprocessOptions::default();
    let (p, warnings) = resolve(&none, Dtype::F32, &shape([0, 3, 48, 64]), Some([32, 32])).unwrap();
    assert_eq!(
        (p.size, p.channels, p.layout, p.resize),
        ([48, 64], Channels::Rgb, Layout::Nchw, None)
    );
    assert_eq!((p.scale, p.mean, p.std), (1.0 / 255.0, vec![0.0; 3], vec![1.0; 3]));
    assert_eq!(warnings.len(), 1);
    assert!(warnings[0].contains("48x64 rgb in nchw order, scaled to [0, 1]"), "{}", warnings[0]);
    // bytes are fed unchanged: nothing is assumed
    let (p, warnings) = resolve(&none, Dtype::U8, &shape([1, 224, 224, 3]), None).unwrap();
    assert_eq!((p.layout, p.dtype, warnings.len()), (Layout::Nhwc, Dtype::U8, 0));
    assert_eq!(
        resolve(&with("cifar10"), Dtype::F32, &shape([0, 3, 32, 32]), None).unwrap().1,
        Vec::<String>::new()
    );
}

#[test]
fn open_sizes_come_from_options_then_preset_then_images_then_224() {
    let none = PreprocessOptions::default();
    let sized = PreprocessOptions { size: Some([40, 50]), ..with("cifar10") };
    assert_eq!(resolved(&sized, [0, 3, 0, 0], Some([28, 28])).size, [40, 50]);
    assert_eq!(resolved(&with("cifar10"), [0, 3, 0, 0], Some([28, 28])).size, [32, 32]);
    assert_eq!(resolved(&none, [0, 3, 0, 0], Some([28, 30])).size, [28, 30]);
    assert_eq!(resolved(&none, [0, 3, 0, 0], None).size, [224, 224]);
    assert_eq!(resolved(&none, [0, 3, 96, 0], Some([28, 30])).size, [96, 30]);
    let imagenet = resolved(&with("imagenet"), [0, 3, 0, 0], Some([500, 400]));
    assert_eq!((imagenet.size, imagenet.resize), ([224, 224], Some(256)));
    // what the model fixes overrides the preset
    assert_eq!(resolved(&with("cifar10"), [0, 3, 64, 64], None).size, [64, 64]);
    assert_eq!(resolved(&with("imagenet"), [0, 3, 299, 299], None).resize, Some(341));
}

#[test]
fn a_crop_ratio_gives_the_side_that_timm_takes() {
    // ⌊size / crop_pct⌋ of timm's own pairs; rounding gives 342, 293, 404 and 311 for four of
    // them
    for (size, ratio, side) in [
        (224, 0.875, 256),
        (299, 0.875, 341),
        (260, 0.89, 292),
        (380, 0.94, 404),
        (280, 0.9, 311),
        (288, 1.0, 288),
    ] {
        let options = PreprocessOptions { crop_ratio: Some(ratio), ..PreprocessOptions::default() };
        assert_eq!(
            resolved(&options, [0, 3, size, size], None).resize,
            Some(side),
            "{size} {ratio}"
        );
    }
}

#[test]
fn integers_of_open_size_warn_as_floats_do() {
    let none = PreprocessOptions::default();
    let warnings_for = |options: &PreprocessOptions, dims| {
        resolve(options, Dtype::U8, &shape(dims), Some([32, 48])).unwrap().1
    };
    let warnings = warnings_for(&none, [0, 0, 0, 3]);
    assert_eq!(warnings.len(), 1);
    assert!(
        warnings[0].contains("32x48 rgb in nhwc order, their bytes fed as they are (--size"),
        "{}",
        warnings[0]
    );
    assert!(
        warnings_for(&PreprocessOptions { size: Some([8, 8]), ..none.clone() }, [0, 0, 0, 3])
            .is_empty()
    );
    assert!(warnings_for(&none, [0, 64, 64, 3]).is_empty());
}

#[test]
fn pictures_are_turned_where_that_is_asked_for() {
    let image = Image { height: 1, width: 2, channels: 1, pixels: vec![7, 9], orientation: 6 };
    let asked = Preprocess {
        size: [2, 1],
        exif_orientation: true,
        ..plain(Layout::Nchw, Channels::Gray, Dtype::U8)
    };
    assert_eq!(
        (to_bytes(&asked, &image).unwrap(), seen_size(&asked, &image)),
        (vec![7, 9], [2, 1])
    );
    let mirrored = Image { orientation: 8, ..image.clone() };
    assert_eq!(to_bytes(&asked, &mirrored).unwrap(), [9, 7]);
    let not = Preprocess { size: [1, 2], exif_orientation: false, ..asked.clone() };
    assert_eq!(
        (to_bytes(&not, &mirrored).unwrap(), seen_size(&not, &mirrored)),
        (vec![7, 9], [1, 2])
    );
    // records without the field, as all were, mean that nothing is rotated
    let record = serde_json::to_string(&not).unwrap();
    assert!(!record.contains("exif"), "{record}");
    assert_eq!(serde_json::from_str::<Preprocess>(&record).unwrap(), not);
    // a common size in headers says nothing about rotated images
    let open = PreprocessOptions { exif_orientation: Some(true), ..PreprocessOptions::default() };
    assert_eq!(resolved(&open, [0, 3, 0, 0], Some([20, 30])).size, [224, 224]);
}

#[test]
fn layout_and_channels_come_from_the_axis_of_one_or_three() {
    let none = PreprocessOptions::default();
    assert_eq!(resolved(&none, [0, 1, 28, 28], None).channels, Channels::Gray);
    assert_eq!(resolved(&none, [0, 28, 28, 1], None).layout, Layout::Nhwc);
    assert_eq!(resolved(&none, [0, 0, 0, 3], None).layout, Layout::Nhwc);
    assert_eq!(resolved(&none, [0, 0, 0, 0], None).layout, Layout::Nchw);
    assert_eq!(resolved(&none, [0, 3, 32, 3], None).layout, Layout::Nchw);
    let p = resolve(&none, Dtype::F32, &[], Some([8, 9])).unwrap().0;
    assert_eq!((p.layout, p.channels, p.size), (Layout::Nchw, Channels::Rgb, [8, 9]));
    // a single value serves all channels, and a gray preset a color model
    let p = resolved(&with("fashion-mnist"), [0, 3, 28, 28], None);
    assert_eq!((p.channels, p.mean), (Channels::Rgb, vec![0.2860; 3]));
    assert_eq!(resolved(&with("fashion-mnist"), [0, 0, 0, 0], None).channels, Channels::Gray);
}

#[test]
fn a_preset_turns_round_for_bgr_but_given_values_do_not() {
    let bgr = PreprocessOptions { channels: Some(Channels::Bgr), ..with("imagenet") };
    let p = resolved(&bgr, [0, 3, 224, 224], None);
    assert_eq!((p.mean, p.std), (vec![0.406, 0.456, 0.485], vec![0.225, 0.224, 0.229]));
    let given =
        PreprocessOptions { mean: Some(vec![103.9, 116.8, 123.7]), scale: Some(1.0), ..bgr };
    assert_eq!(resolved(&given, [0, 3, 224, 224], None).mean, [103.9, 116.8, 123.7]);
}

#[test]
fn contradictions_are_refused() {
    let o = PreprocessOptions::default();
    assert!(
        refused(&PreprocessOptions { size: Some([28, 28]), ..o.clone() }, [0, 3, 32, 32])
            .contains("takes 32x32, found size 28x28")
    );
    assert!(
        refused(&PreprocessOptions { channels: Some(Channels::Gray), ..o.clone() }, [0, 3, 32, 32])
            .contains("takes 3 channels")
    );
    assert!(
        refused(&PreprocessOptions { dtype: Some(Dtype::U8), ..o.clone() }, [0, 3, 32, 32])
            .contains("takes float32, found dtype uint8")
    );
    assert!(
        refused(&PreprocessOptions { resize: Some(31), ..o.clone() }, [0, 3, 32, 32])
            .contains("at least the size 32x32, found 31")
    );
    assert!(
        refused(&PreprocessOptions { crop_ratio: Some(0.0), ..o.clone() }, [0, 3, 32, 32])
            .contains("crop ratio")
    );
    assert!(
        refused(&PreprocessOptions { mean: Some(vec![0.5; 2]), ..o.clone() }, [0, 3, 32, 32])
            .contains("expected 3 values")
    );
    assert!(refused(&with("cifar10"), [0, 1, 32, 32]).contains("expected 1 values"));
    assert!(refused(&o, [0, 4, 32, 32]).contains("expected 1 or 3 channels on axis 1"));
    assert!(refused(&with("cifar11"), [0, 3, 32, 32]).contains("cifar11"));
    assert!(resolve(&o, Dtype::F32, &shape([1, 2, 3, 4])[..2], None).is_err());
    assert!(resolve(&o, Dtype::I64, &shape([0, 3, 32, 32]), None).is_err());
}

fn plain(layout: Layout, channels: Channels, dtype: Dtype) -> Preprocess {
    let count = channels.count();
    Preprocess {
        size: [1, 2],
        resize: None,
        interpolation: Interpolation::Bilinear,
        channels,
        layout,
        dtype,
        scale: 0.5,
        mean: vec![1.0, 2.0, 3.0][..count].to_vec(),
        std: vec![1.0, 2.0, 4.0][..count].to_vec(),
        exif_orientation: false,
    }
}

#[test]
fn bytes_follow_layout_and_channel_order() {
    let image =
        Image { height: 1, width: 2, channels: 3, pixels: vec![1, 2, 3, 4, 5, 6], orientation: 1 };
    let bytes = |layout, channels| to_bytes(&plain(layout, channels, Dtype::F32), &image).unwrap();
    assert_eq!(bytes(Layout::Nhwc, Channels::Rgb), [1, 2, 3, 4, 5, 6]);
    assert_eq!(bytes(Layout::Nhwc, Channels::Bgr), [3, 2, 1, 6, 5, 4]);
    assert_eq!(bytes(Layout::Nchw, Channels::Rgb), [1, 4, 2, 5, 3, 6]);
    assert_eq!(bytes(Layout::Nchw, Channels::Bgr), [3, 6, 2, 5, 1, 4]);
    assert_eq!(bytes(Layout::Nchw, Channels::Gray), [2, 5]);
    let gray = Image { height: 1, width: 2, channels: 1, pixels: vec![7, 8], orientation: 1 };
    assert_eq!(
        to_bytes(&plain(Layout::Nchw, Channels::Rgb, Dtype::F32), &gray).unwrap(),
        [7, 8, 7, 8, 7, 8]
    );
}

#[test]
fn normalization_is_scale_mean_std_per_channel() {
    let nchw =
        normalize(&plain(Layout::Nchw, Channels::Rgb, Dtype::F32), &[2, 4, 2, 4, 2, 4]).unwrap();
    assert_eq!(
        (nchw.shape(), nchw.as_f32().unwrap()),
        ([1, 3, 1, 2].as_slice(), [0.0, 1.0, -0.5, 0.0, -0.5, -0.25].as_slice())
    );
    let nhwc = plain(Layout::Nhwc, Channels::Rgb, Dtype::F64);
    let array = normalize(&nhwc, &[2, 2, 2, 4, 4, 4]).unwrap();
    assert_eq!(
        (array.shape(), array.values()),
        ([1, 1, 2, 3].as_slice(), &Values::F64(vec![0.0, -0.5, -0.5, 1.0, 0.0, -0.25]))
    );
    assert_eq!(normalize_nchw(&nhwc, &[2, 2, 2, 4, 4, 4]).unwrap(), nchw.to_f32());
    let raw =
        normalize(&plain(Layout::Nhwc, Channels::Rgb, Dtype::I32), &[0, 1, 2, 3, 4, 255]).unwrap();
    assert_eq!(raw.values(), &Values::I32(vec![0, 1, 2, 3, 4, 255]));
    let half = normalize(&plain(Layout::Nchw, Channels::Gray, Dtype::F16), &[2, 4]).unwrap();
    assert_eq!(half.values(), &Values::F16(vec![f16::ZERO, f16::ONE]));
    assert!(normalize(&nhwc, &[0; 5]).is_err());
    assert!(normalize_nchw(&nhwc, &[0; 7]).is_err());
}
