use super::*;
use std::collections::HashSet;

#[test]
fn every_operator_stands_once() {
    let names: HashSet<&str> = all().map(|operator| operator.name).collect();
    assert_eq!(names.len(), all().count());
    assert!(names.iter().all(|name| of(name).name == *name));
    assert_eq!(of("Quadruple"), &new("", Class::Other));
}

#[test]
fn slots_agree_with_each_other() {
    for operator in all() {
        let apart = |a: &[usize], b: &[usize]| a.iter().all(|slot| !b.contains(slot));
        let scale = operator.scale.map_or(Vec::new(), |scale| scale.to_vec());
        assert!(apart(operator.parameters, operator.statistics), "{}", operator.name);
        assert!(apart(&scale, operator.parameters), "{}", operator.name);
        if let Some((factor, _)) = operator.macs.filter(|_| !operator.parameters.is_empty()) {
            assert!(operator.parameters.contains(&factor), "{}", operator.name);
        }
    }
}
