use super::*;

fn graph(text: &str) -> GraphProto {
    let entry =
        StringStringEntryProto { key: Some(SIGNATURE.into()), value: Some(text.to_owned()) };
    GraphProto { metadata_props: vec![entry], ..GraphProto::default() }
}

#[test]
fn both_forms_of_a_signature_are_read() {
    let now = "\n# inputs\np_c_weight: PARAMETER target='c.weight'\n\
               b_filt: BUFFER target='filt' persistent=True\nx: USER_INPUT\n\n# outputs\n\
               getitem_3: BUFFER_MUTATION target='filt'\nlinear: USER_OUTPUT\n";
    let before = "ExportGraphSignature(input_specs=[InputSpec(kind=<InputKind.PARAMETER: 2>, \
                  arg=TensorArgument(name='p_c_weight'), target='c.weight', persistent=None), \
                  InputSpec(kind=<InputKind.BUFFER: 3>, arg=TensorArgument(name='b_filt'), \
                  target='filt', persistent=True), InputSpec(kind=<InputKind.USER_INPUT: 1>, \
                  arg=TensorArgument(name='x'), target=None, persistent=None)], output_specs=[])";
    let read = Signature::of(&graph(now)).unwrap();
    assert_eq!(read, Signature::of(&graph(before)).unwrap());
    assert!(read.is_parameter("c.weight") && !read.is_parameter("filt"));
    assert_eq!(read.tensors.len(), 2);
    for text in ["", "p: PARAMETER", "InputSpec(", "p: PARAMETER target='"] {
        let tensors = Signature::of(&graph(text)).map_or(0, |s| s.tensors.len());
        assert!(tensors <= 1, "{text}");
    }
    assert_eq!(Signature::of(&GraphProto::default()), None);
}

#[test]
fn a_call_says_its_function_and_arguments() {
    let text = "%conv2d : [num_users=1] = call_function[target=torch.ops.aten.conv2d.default](args \
                = (%x, %p_c_weight, %p_c_weight, %b_filt, None, [1, 1], 1e-05), kwargs = {})";
    let call = Call { text };
    assert_eq!((call.function(), call.numbers()), ("conv2d", vec![1e-5]));
    assert_eq!(call.arguments()[4..], ["None", "[1, 1]", "1e-05"]);
    let signature = Signature::of(&graph(
        "p_c_weight: PARAMETER target='c.weight'\nb_filt: BUFFER target='filt'",
    ))
    .unwrap();
    assert_eq!(signature.taken_by(&call), ["c.weight", "filt"]);
    assert_eq!(signature.argument(&call, 2), Some("c.weight"));
    assert_eq!((signature.argument(&call, 0), signature.argument(&call, 9)), (None, None));
    for text in ["", "%", "(args = (%", "target=", "target=]"] {
        assert!(signature.taken_by(&Call { text }).is_empty(), "{text}");
        assert_eq!(Call { text }.function(), "");
    }
}

#[test]
fn modules_stand_innermost_first() {
    let entry = StringStringEntryProto {
        key: Some(SCOPES.into()),
        value: Some("['', 'b', 'b.1', 'relu']".into()),
    };
    let node = NodeProto { metadata_props: vec![entry], ..NodeProto::default() };
    assert_eq!(modules(&node), ["b.1", "b", ""]);
    assert!(modules(&NodeProto::default()).is_empty());
}
