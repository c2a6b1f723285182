use super::*;

fn node(op: &str, attributes: &[(&str, i64)]) -> NodeProto {
    let attribute = attributes.iter().map(|&(name, i)| super::super::proto::AttributeProto {
        name: Some(name.into()),
        i: Some(i),
        ..Default::default()
    });
    NodeProto { op_type: Some(op.into()), attribute: attribute.collect(), ..Default::default() }
}

#[test]
fn each_operator_counts_its_products() {
    let count =
        |op, attributes: &[(&str, i64)], input: &[usize], weight: &[usize], output: &[usize]| {
            node_macs(&node(op, attributes), input, weight, output)
        };
    assert_eq!(
        count("Conv", &[], &[2, 4, 8, 8], &[6, 4, 3, 3], &[2, 6, 8, 8]),
        Some(2 * 6 * 64 * 36)
    );
    assert_eq!(
        count("Conv", &[("group", 4)], &[2, 4, 8, 8], &[4, 1, 3, 3], &[2, 4, 4, 4]),
        Some(2 * 4 * 16 * 9)
    );
    assert_eq!(
        count("ConvTranspose", &[], &[1, 4, 5, 5], &[4, 2, 2, 2], &[1, 2, 10, 10]),
        Some(4 * 25 * 8)
    );
    assert_eq!(count("Gemm", &[("transB", 1)], &[3, 7], &[5, 7], &[3, 5]), Some(105));
    assert_eq!(count("Gemm", &[("transA", 1)], &[7, 3], &[7, 5], &[3, 5]), Some(105));
    assert_eq!(
        count("QLinearConv", &[], &[2, 4, 8, 8], &[6, 4, 3, 3], &[2, 6, 8, 8]),
        Some(2 * 6 * 64 * 36)
    );
    // two directions of three gates, for five steps of two samples
    assert_eq!(count("GRU", &[], &[5, 2, 7], &[2, 12, 7], &[5, 2, 2, 4]), Some(10 * 24 * 11));
    assert_eq!(count("QGemm", &[("transB", 1)], &[3, 7], &[5, 7], &[3, 5]), Some(105));
    assert_eq!(
        count("MatMul", &[], &[2, 4, 9, 8], &[2, 4, 8, 9], &[2, 4, 9, 9]),
        Some(2 * 4 * 81 * 8)
    );
}
