use super::*;
use crate::criterion::papers::kd::Kd;
use crate::criterion::papers::nst::{NstGauss, Sigma};

fn parse(text: &str) -> Result<CriterionRecipe> {
    text.parse()
}

#[test]
fn short_forms() {
    assert_eq!(parse("ce").unwrap(), CriterionRecipe::ce());
    assert_eq!(parse("nst").unwrap(), CriterionRecipe::default_nst());
    assert_eq!(parse("nst-poly").unwrap(), CriterionRecipe::default_nst());
    let kd = Kd { temperature: 2.0 };
    assert_eq!(
        parse("kd:weight=0.9,temperature=2").unwrap(),
        CriterionRecipe { weight: 0.9, ..kd.into() }
    );
    let gauss =
        parse("nst:kernel=gauss,sigma=0.5,weight=25,pair=stage1>/a/Relu,pair=stage2>/b").unwrap();
    let half = NstGauss { sigma: Sigma::Fixed(0.5), ..NstGauss::default() };
    assert_eq!(gauss.method, Method::new(half));
    assert_eq!(gauss.pairs.len(), 2);
    assert_eq!(gauss.pairs[1], PairRecipe { teacher: "stage2".into(), student: "/b".into() });
}

#[test]
fn every_method_has_defaults_that_are_in_range_and_read_back() {
    for name in papers::names() {
        let recipe = parse(name).unwrap();
        assert_eq!(recipe.name(), name);
        let json = serde_json::to_string(&recipe).unwrap();
        assert_eq!(serde_json::from_str::<CriterionRecipe>(&json).unwrap(), recipe, "{json}");
        let toml = toml::to_string(&recipe).unwrap();
        assert_eq!(toml::from_str::<CriterionRecipe>(&toml).unwrap(), recipe, "{toml}");
        let message = parse(&format!("{name}:color=red")).unwrap_err().to_string();
        assert!(message.contains(&format!("criterion {name}: unknown field `color`")), "{message}");
        // every number is rejected, by name, if it is below its range or text
        for (key, value) in recipe.settings().iter().filter(|(_, v)| v.is_number()) {
            let message = parse(&format!("{name}:{key}=x")).unwrap_err().to_string();
            assert!(message.contains(&format!("criterion {name}: {key}: ")), "{message}");
            let again = parse(&format!("{name}:{key}={value}")).unwrap();
            assert_eq!(again, recipe);
        }
    }
}

#[test]
fn records_read_back() {
    for text in [
        "kd:temperature=2,from=1,until=9.5,warmup-epochs=2,decay-to=0",
        "nst:degree=3,constant=1",
        "nst-gauss:sigma=auto-batch",
        "nst-gauss:sigma=2",
        "at:p=1,pair=a>b,pair=c>d",
        "crd:negatives=64,width=16",
    ] {
        let recipe = parse(text).unwrap();
        let json = serde_json::to_string(&recipe).unwrap();
        assert_eq!(serde_json::from_str::<CriterionRecipe>(&json).unwrap(), recipe, "{json}");
        let toml = toml::to_string(&recipe).unwrap();
        assert_eq!(toml::from_str::<CriterionRecipe>(&toml).unwrap(), recipe, "{toml}");
    }
}

#[test]
fn wrong_forms_name_what_is_wrong() {
    for (text, part) in [
        ("hinge", "`hinge`"),
        ("mse:projector=1", "projector: invalid type"),
        ("lightly-v1:queue-size=0", "queue-size: expected 1 or more, found 0"),
        ("lightly-v1:queue-size=big", "queue-size"),
        ("nst:kernel=cubic", "cubic"),
        ("ce:temperature=4", "unknown field `temperature`"),
        ("ce:pair=a>b", "unknown field `pairs`"),
        ("ce:pair=a>b", "unknown field `pairs`"),
        ("nst-linear:degree=3", "unknown field `degree`"),
        ("nst-linear:kernel=poly", "expected linear"),
        ("nst:color=red", "unknown field `color`"),
        ("nst:normalization=loud", "normalization: unknown variant `loud`"),
        ("kd:temperature=0", "temperature: expected a value above 0, found 0"),
        ("kd:temperature=warm", "temperature: invalid type"),
        ("kd:temperature=2,temperature=3", "each key once"),
        ("nst:degree=9", "1 to 8"),
        ("nst:degree=2.5", "degree"),
        ("nst:pair=a", "TEACHER>STUDENT"),
        ("nst:weight=-1", "0 or more"),
        ("nst:weight=inf", "weight: invalid type"),
        ("nst:weight", "key=value"),
        ("crd:momentum=1", "momentum: expected 0 to below 1"),
        ("ft:paraphraser-epochs=-1", "paraphraser-epochs: invalid value"),
        ("kd:from=-1", "from: expected a finite value of 0 or more"),
        ("kd:from=3,until=3", "until: expected an epoch after 3"),
    ] {
        let message = parse(text).unwrap_err().to_string();
        assert!(message.contains(part), "{text}: {message}");
    }
}

#[test]
fn a_course_has_a_beginning_and_an_end() {
    let course = parse("ab:from=1,until=3").unwrap().course;
    assert_eq!([0.5, 1.0, 2.9, 3.0].map(|epoch| course.is_on(epoch)), [false, true, true, false]);
    assert!(Course::default().is_on(0.0));
}
