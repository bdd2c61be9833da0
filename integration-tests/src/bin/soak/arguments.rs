//! The arguments of the program.

/// What a run is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Arguments {
    pub(crate) seconds: u64,
    pub(crate) backend: String,
    pub(crate) seed: u64,
    /// How many threads serve clients.
    pub(crate) threads: u64,
}

pub(crate) const USAGE: &str = "usage: soak [--seconds N] [--backend system|jemalloc|mimalloc|arena] [--seed N] \
                                [--threads N]";

impl Arguments {
    /// Reads the arguments after the program's name.
    ///
    /// # Errors
    ///
    /// What is wrong, in a line.
    pub(crate) fn parse(arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut parsed = Self {
            seconds: 60,
            backend: "system".to_owned(),
            seed: 1,
            threads: 8,
        };
        let mut arguments = arguments;
        while let Some(name) = arguments.next() {
            let value = arguments.next();
            let value = value.ok_or_else(|| format!("`{name}` has no value"))?;
            let number = || {
                let number = value.parse::<u64>();
                number.map_err(|_| format!("`{name} {value}`: not a number"))
            };
            match &*name {
                "--seconds" => parsed.seconds = number()?.max(1),
                "--seed" => parsed.seed = number()?,
                "--threads" => parsed.threads = number()?.max(1),
                "--backend" => parsed.backend = value,
                _ => return Err(format!("`{name}` is not known")),
            }
        }
        Ok(parsed)
    }
}
