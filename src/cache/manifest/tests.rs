use super::super::testing;
use super::*;

#[test]
fn each_malformed_field_is_refused() {
    type Change = fn(&mut Manifest);
    let changes: [(&str, Change); 20] = [
        ("format", |m| m.format = 2),
        ("rows", |m| m.rows = 0),
        ("rows", |m| m.rows = usize::MAX),
        ("views", |m| m.views = 0),
        ("views", |m| m.views = usize::MAX),
        ("segment_rows", |m| m.segment_rows = 0),
        ("row_arrays", |m| m.row_arrays.truncate(1)),
        ("sample_id", |m| m.row_arrays[0].dtype = Dtype::I32),
        ("label", |m| m.row_arrays[1].row_shape = vec![1]),
        ("twice", |m| m.view_arrays[0].path = "TAPS/conv/features".into()),
        ("through", |m| m.view_arrays[0].path = "taps".into()),
        ("path", |m| m.view_arrays[0].path = "../input".into()),
        ("path", |m| m.view_arrays[0].path = "/input".into()),
        ("path", |m| m.view_arrays[0].path = "a/zarr.json".into()),
        ("path", |m| m.view_arrays[0].path = "a//b".into()),
        ("axis", |m| m.view_arrays[0].axes.clear()),
        ("chunk_rows", |m| m.view_arrays[0].chunk_rows = 3),
        ("chunks of", |m| m.view_arrays[0].row_shape[0] = usize::MAX),
        ("chunks of", |m| m.view_arrays[0].row_shape[0] = 0),
        ("chunks of", |m| m.view_arrays[0].row_shape[0] = 1 << 40),
    ];
    for (index, (word, change)) in changes.into_iter().enumerate() {
        let mut manifest = testing::manifest(10, 2, Codec::Zstd);
        assert_eq!(manifest.validate(), Ok(()));
        change(&mut manifest);
        let problem = manifest.validate().expect_err(word);
        assert!(problem.contains(word), "change {index}: {problem}");
    }
}

#[test]
fn each_malformed_augmentation_is_refused() {
    type Change = fn(&mut Manifest);
    let changes: [(&str, Change); 7] = [
        ("format", |m| m.format = 1),
        ("format", |m| m.augment = None),
        ("array `partner`", |m| m.view_arrays.retain(|a| a.path != "partner")),
        ("array `mix` of float32", |m| m.view_arrays[4].dtype = Dtype::I32),
        ("alpha", |m| m.augment.as_mut().unwrap().mixup = Some(0.0)),
        ("of images", |m| m.data.preprocess = None),
        ("of images", |m| m.augment = Some(Augmentation::NONE)),
    ];
    for (index, (word, change)) in changes.into_iter().enumerate() {
        let mut manifest = testing::augmented(10, 2, Codec::Zstd);
        assert_eq!(manifest.validate(), Ok(()));
        change(&mut manifest);
        let problem = manifest.validate().expect_err(word);
        assert!(problem.contains(word), "change {index}: {problem}");
    }
}

#[test]
fn each_malformed_statistic_is_refused() {
    type Change = fn(&mut Manifest);
    let changes: [(&str, Change); 12] = [
        ("format", |m| m.format = 1),
        ("format", |m| m.taps[0].map = None),
        ("expected the tap's map", |m| m.taps[0].alias = "other".into()),
        ("expected the tap's map", |m| m.view_arrays[0].path = "taps/pool/mean".into()),
        ("expected rows", |m| m.taps[0].map.as_mut().unwrap().height = 3),
        ("expected rows", |m| m.taps[0].map.as_mut().unwrap().channels = 9),
        ("expected rows", |m| m.taps[0].map.as_mut().unwrap().layout = Layout::Nhwc),
        ("beyond computing", |m| m.taps[0].map.as_mut().unwrap().width = usize::MAX),
        ("expected rows", |m| m.view_arrays.last_mut().unwrap().row_shape = vec![3]),
        ("expected rows", |m| m.view_arrays.last_mut().unwrap().dtype = Dtype::I32),
        ("expected rows", |m| m.view_arrays.last_mut().unwrap().axes = vec!["pair".into()]),
        ("chunks of", |m| {
            *m.taps[0].map.as_mut().unwrap() =
                MapShape { layout: Layout::Nchw, channels: 1, height: 1 << 20, width: 1 };
            m.view_arrays.retain(|a| !a.path.starts_with("taps/") || a.path.ends_with("/gram"));
            m.view_arrays.last_mut().unwrap().row_shape = vec![((1 << 20) * ((1 << 20) + 1)) / 2];
        }),
    ];
    for (index, (word, change)) in changes.into_iter().enumerate() {
        let mut manifest = testing::statistics(Codec::Zstd);
        assert_eq!(manifest.validate(), Ok(()));
        change(&mut manifest);
        let problem = manifest.validate().expect_err(word);
        assert!(problem.contains(word), "change {index}: {problem}");
    }
}

#[test]
fn each_malformed_segment_is_refused() {
    let segment = |view, index| Segment { view, index, bytes: vec![0; 4], crc32c: vec![0; 4] };
    let check = |segments: Vec<Segment>| {
        Manifest { segments, ..testing::manifest(10, 2, Codec::Zstd) }.validate()
    };
    assert_eq!(check(vec![segment(0, 0), segment(0, 1), segment(1, 0)]), Ok(()));
    assert!(check(vec![segment(2, 0)]).is_err());
    assert!(check(vec![segment(0, 3)]).is_err());
    assert!(check(vec![segment(0, 0), segment(0, 0)]).is_err());
    assert!(check(vec![segment(0, 1), segment(0, 0)]).is_err());
    assert!(check(vec![Segment { bytes: vec![], ..segment(0, 0) }]).is_err());
    assert!(check(vec![Segment { crc32c: vec![0; 5], ..segment(0, 0) }]).is_err());
    assert!(
        check(vec![Segment { bytes: vec![0; 5], crc32c: vec![0; 5], ..segment(0, 0) }]).is_err()
    );
    // arrays are being added: the first two are published
    assert_eq!(
        check(vec![Segment { bytes: vec![0; 2], crc32c: vec![0; 2], ..segment(0, 0) }]),
        Ok(())
    );
}
