use super::*;

#[test]
fn matrices_are_turned() {
    let matrix = Array::new(vec![2, 3], Values::F32(vec![1., 2., 3., 4., 5., 6.])).unwrap();
    let turned = transposed(&matrix).unwrap().unwrap();
    assert_eq!((turned.shape(), turned.to_f32()), (&[3, 2][..], vec![1., 4., 2., 5., 3., 6.]));
    let vector = Array::new(vec![3], Values::F32(vec![1.; 3])).unwrap();
    assert!(transposed(&vector).unwrap().is_none());
}
