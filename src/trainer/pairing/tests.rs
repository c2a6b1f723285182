//! Pairs by hand.

use super::*;

fn teacher(alias: &str, stage: usize, shape: [usize; 3]) -> TeacherTap {
    TeacherTap {
        alias: alias.into(),
        tensor: format!("/{alias}/Add"),
        stage: Some(stage),
        shape: shape.to_vec(),
        stored: vec![(Statistic::Features, 2)],
        output: false,
    }
}

fn student(tensor: &str, stage: usize, shape: [usize; 3], suggested: bool) -> StudentTap {
    StudentTap {
        tensor: tensor.into(),
        stage: Some(stage),
        shape: shape.to_vec(),
        suggested,
        output: false,
        channels_last: false,
    }
}

fn teachers() -> Vec<TeacherTap> {
    vec![
        teacher("stage1", 1, [32, 28, 28]),
        teacher("stage2", 2, [64, 14, 14]),
        teacher("stage3", 3, [128, 7, 7]),
    ]
}

#[test]
fn sizes_decide_and_the_rest_is_named() {
    let students = [
        student("a", 1, [16, 14, 14], false),
        student("b", 1, [16, 14, 14], true),
        student("c", 2, [32, 7, 7], true),
        student("d", 3, [64, 4, 4], true),
    ];
    let (pairs, left) = suggest("criterion at", &teachers(), &students).unwrap();
    let names: Vec<_> = pairs.iter().map(|p| (p.teacher.as_str(), p.student.as_str())).collect();
    assert_eq!(names, [("stage2", "b"), ("stage3", "c")]);
    assert_eq!(left.len(), 2);
    assert!(left[0].contains("stage1") && left[1].contains('d'));
}

#[test]
fn the_deepest_maps_are_paired_by_depth_where_sizes_leave_them_over() {
    let mut taps = taps();
    taps.student_maps = vec![
        student("a", 1, [16, 14, 14], true),
        student("b", 2, [32, 7, 7], true),
        student("c", 3, [64, 4, 4], true),
    ];
    let recipe = |text: &str| text.parse::<CriterionRecipe>().unwrap();
    let (pairs, left) = taps.pairs(&recipe("at")).unwrap();
    let names: Vec<_> = pairs.iter().map(|p| (p.teacher.as_str(), p.student.as_str())).collect();
    assert_eq!(names, [("stage1", "a"), ("stage2", "b"), ("stage3", "c")]);
    assert!(left.len() == 1 && left[0].contains("paired by depth"), "{left:?}");
    // a Gram matrix cannot be pooled: pairing is by size, and the unpaired taps are reported
    for tap in &mut taps.teacher_maps {
        tap.stored = vec![(Statistic::Gram, 2)];
    }
    let (pairs, left) = taps.pairs(&recipe("nst")).unwrap();
    let names: Vec<_> = pairs.iter().map(|p| (p.teacher.as_str(), p.student.as_str())).collect();
    assert_eq!(names, [("stage2", "a"), ("stage3", "b")]);
    assert!(left.iter().any(|l| l.contains("--tap '/stage3/Add@4x4'")), "{left:?}");
}

#[test]
fn nothing_in_common_is_an_error_with_a_way_out() {
    let error =
        suggest("criterion at", &teachers(), &[student("x", 1, [8, 5, 5], true)]).unwrap_err();
    assert!(error.to_string().contains("stage3 128x7x7") && error.to_string().contains("x 8x5x5"));
    assert!(error.find_hint().unwrap().contains("pair="));
}

fn taps() -> Taps {
    let vector = |name: &str, width: usize, suggested| StudentTap {
        tensor: name.into(),
        stage: None,
        shape: vec![width],
        suggested,
        output: false,
        channels_last: false,
    };
    Taps {
        other_classes: false,
        sparse_logits: None,
        teacher_maps: teachers(),
        teacher_whole: Vec::new(),
        teacher_logits: None,
        student_whole: Vec::new(),
        student_logits: None,
        teacher_vectors: vec![TeacherTap {
            alias: "pooled".into(),
            tensor: "/Flatten".into(),
            stage: None,
            shape: vec![128],
            stored: Vec::new(),
            output: false,
        }],
        student_maps: vec![
            student("a", 1, [8, 28, 28], true),
            student("b", 2, [16, 14, 14], true),
            student("c", 3, [32, 7, 7], true),
        ],
        student_vectors: vec![vector("flat", 32, true), vector("other", 32, false)],
        classes: [Some(10); 2],
    }
}

#[test]
fn each_method_has_the_pairs_of_its_kind() {
    let of = |text: &str| {
        let (pairs, _) = taps().pairs(&text.parse().unwrap()).unwrap();
        pairs.iter().map(|p| format!("{}>{}", p.teacher, p.student)).collect::<Vec<_>>().join(" ")
    };
    for (text, expected) in [
        ("kd", ""),
        ("at", "stage1>a stage2>b stage3>c"),
        ("fitnet", "stage2>b"),
        ("sp", "stage3>c"),
        ("rkd", "pooled>flat"),
        ("rkd:pair=pooled>other", "pooled>other"),
        ("rkd:pair=stage3>c", "stage3>c"),
        ("reviewkd", "stage1>a stage2>b stage3>c pooled>flat"),
        ("reviewkd:pair=stage2>b,pair=pooled>flat", "stage2>b pooled>flat"),
    ] {
        assert_eq!(of(text), expected, "{text}");
    }
}

#[test]
fn a_missing_vector_is_named_with_a_way_out() {
    let mut taps = taps();
    let crd = "crd".parse().unwrap();
    taps.student_vectors.remove(0);
    let error = taps.pairs(&crd).unwrap_err();
    assert!(
        error.to_string().contains("student's classifier")
            && error.find_hint().unwrap().contains("crd:pair=pooled>TENSOR")
    );
    taps.classes = [Some(100), Some(10)];
    assert!(
        taps.pairs(&"dkd".parse().unwrap())
            .unwrap_err()
            .to_string()
            .contains("found 100 of the teacher and 10")
    );
    taps.teacher_vectors.clear();
    let error = taps.pairs(&crd).unwrap_err();
    assert!(
        error.to_string().contains("in the cache") && error.find_hint().unwrap().contains("--tap")
    );
    assert!(taps.pairs(&"at:pair=pooled>c".parse().unwrap()).is_err());
}

#[test]
fn a_volume_is_refused_where_it_would_be_read() {
    let mut taps = taps();
    let shape = vec![8, 4, 16, 16];
    taps.teacher_whole = vec![TeacherTap {
        alias: "r1".into(),
        tensor: "r1".into(),
        stage: None,
        shape,
        stored: Vec::new(),
        output: false,
    }];
    taps.pairs(&"at".parse().unwrap()).unwrap();
    let refused =
        |taps: &Taps, text: &str| taps.pairs(&text.parse().unwrap()).unwrap_err().to_string();
    let expected = "criterion at: expected a map or a vector of the teacher, found \
                    r1 8x4x16x16";
    assert_eq!(refused(&taps, "at:pair=r1>c"), expected);
    taps.teacher_maps.clear();
    assert_eq!(refused(&taps, "at"), expected);
    taps.pairs(&"rkd".parse().unwrap()).unwrap();
}

#[test]
fn explicit_pairs_by_alias_or_tensor() {
    let students = [student("/layer1/Relu", 1, [16, 28, 28], false)];
    let request = |t: &str, s: &str| [PairRecipe { teacher: t.into(), student: s.into() }];
    for name in ["stage1", "/stage1/Add"] {
        assert_eq!(
            explicit(&request(name, "/layer1/Relu"), &teachers(), &students).unwrap()[0].teacher,
            "stage1"
        );
    }
    let error = explicit(&request("stage9", "/layer1/Relu"), &teachers(), &students).unwrap_err();
    assert!(error.find_hint().unwrap().contains("stage"));
    let error = explicit(&request("stage1", "/layer1/Rel"), &teachers(), &students).unwrap_err();
    assert!(error.find_hint().unwrap().contains("/layer1/Relu"));
}

#[test]
fn what_cannot_be_served_is_named() {
    let mut teacher = teacher("deep", 3, [64, 8, 8]);
    teacher.stored = vec![(Statistic::Gram, 8320), (Statistic::Mean, 256)];
    let read = |size: usize, text: &str| {
        Pair::new(&teacher, &student("s", 3, [32, size, size], true)).read(&text.parse().unwrap())
    };
    assert_eq!(read(8, "nst").unwrap(), [Statistic::Gram]);
    assert_eq!(read(16, "nst-linear").unwrap(), [Statistic::Mean]);
    let error = read(8, "nst-gauss").unwrap_err().to_string();
    assert_eq!(error, "criterion nst-gauss: tap deep: expected features, found gram + mean at 8x8");
    let error = read(4, "nst:constant=1").unwrap_err().to_string();
    assert!(
        error.contains("expected gram + mean or features at 4x4 or smaller")
            && error.ends_with("found gram + mean at 8x8"),
        "{error}"
    );
}
