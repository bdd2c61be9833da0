//! Compares the naive model with the reference: every number in every line of every trace.

use arrow_memory_integration_tests::model::Model;
use arrow_memory_integration_tests::trace::Trace;

#[test]
fn the_model_agrees_with_every_line_of_every_trace() {
    for trace in Trace::all() {
        let mut model = Model::new(trace.rounding);
        for step in &trace.steps {
            let place = format!("{}:{}: {:?}", trace.name, step.line, step.operation);

            let outcome = model.apply(&step.operation);

            let expected = step.expected();
            assert!(
                outcome.agrees(&expected),
                "{place}\n  model:     {outcome:?}\n  reference: {expected:?}"
            );
            assert_eq!(model.states(), step.states, "{place}");
        }
    }
}
