//! Requests that wait for memory, under load, in every executor, and where nobody may wait.
#![expect(
    clippy::unwrap_used,
    reason = "whatever is here is part of a test, also where it is not marked as one"
)]

mod admissions;
mod callbacks;
mod closing;
mod executors;
mod hostile;
mod load;
mod queries;
mod shortage;
mod support;
mod wakers;

/// Compares `docs/short-of-memory.md` with the part of `examples/server.rs` that it shows.
#[test]
fn the_guide_shows_the_recipe_of_the_example() {
    let workspace = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let example = std::fs::read_to_string(workspace.join("examples/server.rs")).unwrap();
    let guide = std::fs::read_to_string(workspace.join("docs/short-of-memory.md")).unwrap();

    let (_, recipe) = example.split_once("// recipe: begin\n").unwrap();
    let (recipe, _) = recipe.split_once("// recipe: end").unwrap();

    assert!(guide.contains(recipe), "the guide lacks:\n{recipe}");
}
