use super::*;

/// A float32 input: numbers are sizes, `?` is open, other words are symbols.
fn input(name: &str, axes: &[&str]) -> Value {
    let dim = |axis: &&str| match axis.parse() {
        Ok(n) => Dim::Fixed(n),
        Err(_) if *axis == "?" => Dim::Open,
        Err(_) => Dim::Symbol((*axis).to_owned()),
    };
    Value {
        name: name.to_owned(),
        dtype: Some(Dtype::F32),
        shape: axes.iter().map(dim).collect(),
        kind: String::new(),
        has_shape: true,
    }
}

fn feeding(axes: &[&str], values: &[(&str, &[f64])]) -> Feeding {
    let value = |(input, values): &(&str, &[f64])| InputValue {
        input: (*input).to_owned(),
        shape: None,
        values: values.to_vec(),
    };
    Feeding {
        batch_axes: axes.iter().map(|axis| axis.parse().unwrap()).collect(),
        values: values.iter().map(value).collect(),
    }
}

/// The batch axis of each input; −1 for none, −2 if unknown.
fn places(inputs: &[&[&str]], axes: &[&str]) -> Vec<i32> {
    let inputs: Vec<Value> =
        inputs.iter().enumerate().map(|(i, axes)| input(&format!("i{i}"), axes)).collect();
    let (placed, _) = place(&inputs, &feeding(axes, &[])).unwrap();
    let number = |placed: &Placed| match placed.place {
        BatchPosition::At(axis) => i32::try_from(axis).unwrap(),
        BatchPosition::Nowhere => -1,
        BatchPosition::Unknown(_) => -2,
    };
    placed.iter().map(number).collect()
}

#[test]
fn the_batch_stands_where_its_symbol_does() {
    let cases: &[(&[&[&str]], &[i32])] = &[
        // images with a recurrent state or a mask
        (&[&["N", "3", "32", "32"]], &[0]),
        (&[&["N", "3", "32", "32"], &["2", "N", "10"]], &[0, 1]),
        (&[&["batch", "77"], &["12", "batch", "64", "past"]], &[0, 1]),
        (&[&["s0", "3", "s1", "s2"], &["1", "s0", "8"]], &[0, 1]),
        // time before the batch, by name or by what all inputs share
        (&[&["S", "N", "6"]], &[1]),
        (&[&["sequence_length", "batch_size", "6"], &["1", "batch_size", "16"]], &[1, 1]),
        (&[&["T", "x1", "6"], &["1", "x1", "16"]], &[1, 1]),
        (&[&["1", "batch", "128"]], &[1]),
        // the points of a cloud are not a batch
        (&[&["B", "N", "3"]], &[0]),
        (&[&["1", "N", "3"]], &[0]),
        // several batches of their own
        (&[&["text_batch_size", "seq"], &["image_batch_size", "3", "224", "224"]], &[0, 0]),
        // nothing contradicts the first axis
        (&[&["?", "3", "?", "?"]], &[0]),
        (&[&["unk__7", "224", "224", "3"], &["unk__8", "10"]], &[0, 0]),
        (&[&["a", "3", "8", "8"]], &[0]),
        (&[&["5", "3", "8", "8"], &["5", "10"]], &[0, 0]),
        // a single value
        (&[&["N", "3", "8", "8"], &[]], &[0, -1]),
        // unknown batch axes
        (&[&["N", "3", "8", "8"], &["2", "10"]], &[0, -2]),
        (&[&["N", "3", "8", "8"], &["M", "10"]], &[0, -2]),
        (&[&["5", "3", "8", "8"], &["2", "5", "10"]], &[0, -2]),
        (&[&["seq", "40"]], &[-2]),
        (&[&["T", "1", "6"]], &[-2]),
    ];
    for (inputs, expected) in cases {
        assert_eq!(places(inputs, &[]), *expected, "{inputs:?}");
    }
}

#[test]
fn what_is_said_goes_before_what_is_read() {
    assert_eq!(places(&[&["N", "3", "8", "8"], &["2", "M", "10"]], &["i1=1"]), [0, 1]);
    assert_eq!(places(&[&["S", "N", "6"]], &["i0=0"]), [0]);
    // the named axis is the batch elsewhere too
    assert_eq!(places(&[&["T", "K", "6"], &["1", "K", "16"]], &["i0=1"]), [1, 1]);
    assert_eq!(places(&[&["N", "3"], &["2", "10"]], &["i1=none"]), [0, -1]);
    let refused = |axes: &[&str]| {
        place(&[input("x", &["N", "3"])], &feeding(axes, &[])).unwrap_err().to_string()
    };
    assert!(refused(&["x=2"]).contains("the input has 2 axes"));
    assert!(refused(&["y=1"]).contains("no such input, it has `x`"));
}

#[test]
fn an_axis_that_is_not_the_first_is_said() {
    let note = |axes: &[&str]| place(&[input("x", axes)], &Feeding::default()).unwrap().1;
    assert!(
        note(&["S", "N", "6"]).unwrap().contains("axis 1 of input `x`, where its shape says `N`")
    );
    assert_eq!(note(&["N", "6"]), None);
}

#[test]
fn a_batch_that_the_inputs_fix_differently_is_refused() {
    let fixed = |inputs: &[Value], axes: &[&str]| {
        fixed_batch(&place(inputs, &feeding(axes, &[])).unwrap().0)
    };
    assert_eq!(fixed(&[input("x", &["5", "3"]), input("y", &["5", "2"])], &[]).unwrap(), Some(5));
    assert_eq!(fixed(&[input("x", &["N", "3"])], &[]).unwrap(), None);
    assert_eq!(fixed(&[input("x", &["T", "1", "6"])], &["x=1"]).unwrap(), Some(1));
    let inputs = [input("x", &["5", "3"]), input("y", &["2", "5"])];
    assert_eq!(fixed(&inputs, &["y=1"]).unwrap(), Some(5));
    assert!(
        fixed(&inputs, &["y=0"])
            .unwrap_err()
            .to_string()
            .contains("expected a batch of 5 as of `x`, found 2")
    );
}

/// What two samples are fed for a constant.
fn fed(axes: &[&str], values: &[f64]) -> Result<Array> {
    let inputs = [input("x", &["N", "3"]), input("k", axes)];
    let (placed, _) = place(&inputs, &feeding(&[], &[("k", values)]))?;
    placed[1].constant.as_ref().unwrap().array(2)
}

#[test]
fn a_constant_takes_the_declared_shape_and_follows_the_batch() {
    let array = |shape: &[usize], values: &[f32]| {
        Array::new(shape.to_vec(), Values::F32(values.to_vec())).unwrap()
    };
    assert_eq!(fed(&[], &[0.5]).unwrap(), array(&[], &[0.5]));
    assert_eq!(fed(&["1"], &[0.5]).unwrap(), array(&[1], &[0.5]));
    assert_eq!(fed(&["N", "1"], &[3.0]).unwrap(), array(&[2, 1], &[3.0, 3.0]));
    assert_eq!(fed(&["N", "2"], &[1.0, 2.0]).unwrap(), array(&[2, 2], &[1.0, 2.0, 1.0, 2.0]));
    assert_eq!(
        fed(&["2", "N", "1"], &[1.0, 2.0]).unwrap(),
        array(&[2, 2, 1], &[1.0, 1.0, 2.0, 2.0])
    );
    assert_eq!(fed(&["1", "2"], &[1.0, 2.0]).unwrap(), array(&[1, 2], &[1.0, 2.0]));
    assert_eq!(fed(&["N", "len"], &[1.0, 2.0]).unwrap(), array(&[2, 2], &[1.0, 2.0, 1.0, 2.0]));
    assert!(
        fed(&["N", "3"], &[1.0, 2.0])
            .unwrap_err()
            .chain()
            .contains("expected 1 or 3 values for shape [3], found 2")
    );
    assert!(fed(&["1"], &[1e300]).unwrap_err().chain().contains("expected values of float32"));
}

#[test]
fn a_constant_of_integers_is_checked() {
    let constant = |dtype, values: &[f64]| Constant {
        tensor: "k".into(),
        dtype,
        shape: vec![2],
        batch_axis: None,
        values: values.to_vec(),
    };
    assert_eq!(
        constant(Dtype::I8, &[-128.0, 127.0]).array(1).unwrap().values(),
        &Values::I8(vec![-128, 127])
    );
    assert_eq!(constant(Dtype::Bool, &[1.0]).array(1).unwrap().values(), &Values::Bool(vec![1, 1]));
    for (dtype, value) in [
        (Dtype::I8, 128.0),
        (Dtype::U16, -1.0),
        (Dtype::I64, 0.5),
        (Dtype::Bool, 2.0),
        (Dtype::I64, 1e300),
    ] {
        assert!(
            constant(dtype, &[value]).validate().unwrap_err().contains("found"),
            "{dtype:?} {value}"
        );
    }
    let large = Constant { shape: vec![1 << 20, 1 << 20, 1 << 30], ..constant(Dtype::F32, &[0.0]) };
    assert!(large.validate().is_err());
    assert!(Constant { batch_axis: Some(2), ..constant(Dtype::F32, &[0.0]) }.validate().is_err());
}
