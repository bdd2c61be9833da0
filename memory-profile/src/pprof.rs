//! Writes a report as a pprof profile: a message of `google/pprof`'s `profile.proto`, in gzip.
//!
//! The format needs three kinds of protobuf fields. The code for them is smaller than a dependency.

use std::collections::HashMap;
use std::io::Read;
use std::time::{SystemTime, UNIX_EPOCH};

use arrow_memory_core::StackFrame;
use arrow_memory_core::sampling::{DEFAULT_INTERVAL, Estimate, SampleReport};
use flate2::Compression;
use flate2::read::GzEncoder;

/// A report as a gzip-compressed pprof profile, with the value types of Go's heap profiles:
/// `alloc_objects`, `alloc_space`, `inuse_objects` and `inuse_space`. In-use samples are labelled with
/// their allocator.
///
/// Resolves the stacks, which reads debug information: this takes some milliseconds for the first stack, and
/// microseconds for each further one.
///
/// ```
/// # use arrow_memory_system as _;
/// use arrow_memory_core::{RootAllocator, sampling};
///
/// let root = RootAllocator::unlimited();
/// sampling::start("*", 4096);
/// let buffer = root.buffer(1 << 20)?;
/// let profile = arrow_memory_profile::to_pprof(&sampling::report());
/// assert_eq!(profile[..2], [0x1f, 0x8b]); // gzip
/// # sampling::stop_all();
/// # drop(buffer);
/// # Ok::<(), arrow_memory_core::AllocError>(())
/// ```
///
/// `go tool pprof -sample_index=inuse_space`, Speedscope, Pyroscope and others can read the profile.
pub fn to_pprof(report: &SampleReport) -> Vec<u8> {
    let mut profile = Profile::default();
    for (kind, unit) in [
        ("alloc_objects", "count"),
        ("alloc_space", "bytes"),
        ("inuse_objects", "count"),
        ("inuse_space", "bytes"),
    ] {
        let value_type = profile.value_type(kind, unit);
        profile.message.bytes(1, &value_type);
    }
    for site in &report.sites {
        let frames = match &site.stack {
            Some(stack) => stack.resolve(),
            None => Vec::new(),
        };
        let locations: Vec<u64> = frames.iter().map(|frame| profile.location(frame)).collect();
        profile.sample(&locations, site.allocated, Estimate::default(), None);
        for (allocator, live) in &site.live {
            profile.sample(
                &locations,
                Estimate::default(),
                *live,
                Some(&allocator.to_string()),
            );
        }
    }
    let message = profile.finish();
    let mut zipped = Vec::new();
    // Reading from a slice and writing to a Vec cannot fail.
    let _ = GzEncoder::new(&message[..], Compression::fast()).read_to_end(&mut zipped);
    zipped
}

#[derive(Default)]
struct Profile {
    message: Message,
    strings: Vec<String>,
    string_of: HashMap<String, u64>,
    /// The ID of a location, by function, file and line.
    location_of: HashMap<(String, String, u32), u64>,
    tables: Message,
}

impl Profile {
    /// The index of a string in the table, whose first entry is the empty string.
    fn string(&mut self, text: &str) -> u64 {
        if self.strings.is_empty() {
            self.strings.push(String::new());
            self.string_of.insert(String::new(), 0);
        }
        if let Some(&index) = self.string_of.get(text) {
            return index;
        }
        let index = self.strings.len() as u64;
        self.strings.push(text.to_owned());
        self.string_of.insert(text.to_owned(), index);
        index
    }

    fn value_type(&mut self, kind: &str, unit: &str) -> Message {
        let mut message = Message::default();
        message.varint(1, self.string(kind));
        message.varint(2, self.string(unit));
        message
    }

    /// The ID of a frame's location.
    fn location(&mut self, frame: &StackFrame) -> u64 {
        let file = frame.file.clone().unwrap_or_default();
        let line = frame.line.unwrap_or(0);
        let key = (frame.function.clone(), file, line);
        if let Some(&id) = self.location_of.get(&key) {
            return id;
        }
        let id = self.location_of.len() as u64 + 1;
        let name = self.string(&key.0);
        let file = self.string(&key.1);
        let mut function = Message::default();
        function.varint(1, id);
        function.varint(2, name);
        function.varint(3, name);
        function.varint(4, file);
        self.tables.bytes(5, &function);
        let mut place = Message::default();
        place.varint(1, id);
        place.varint(2, u64::from(line));
        let mut location = Message::default();
        location.varint(1, id);
        location.bytes(4, &place);
        self.tables.bytes(4, &location);
        self.location_of.insert(key, id);
        id
    }

    fn sample(
        &mut self,
        locations: &[u64],
        allocated: Estimate,
        live: Estimate,
        allocator: Option<&str>,
    ) {
        let values = [allocated.count, allocated.bytes, live.count, live.bytes];
        let mut sample = Message::default();
        sample.packed(1, locations.iter().copied());
        sample.packed(2, values.iter().map(|value| value.round() as u64));
        if let Some(allocator) = allocator {
            let mut label = Message::default();
            label.varint(1, self.string("allocator"));
            label.varint(2, self.string(allocator));
            sample.bytes(3, &label);
        }
        self.message.bytes(2, &sample);
    }

    fn finish(mut self) -> Vec<u8> {
        let period_type = self.value_type("space", "bytes");
        let default = self.string("inuse_space");
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let mut message = self.message;
        message.0.extend_from_slice(&self.tables.0);
        for text in &self.strings {
            message.field(6, text.as_bytes());
        }
        message.varint(9, now.map_or(0, |now| now.as_nanos() as u64));
        message.bytes(11, &period_type);
        message.varint(12, DEFAULT_INTERVAL as u64);
        message.varint(14, default);
        message.0
    }
}

/// A protobuf message that is being written.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, field: u64, value: u64) {
        if value != 0 {
            put_varint(&mut self.0, field << 3);
            put_varint(&mut self.0, value);
        }
    }

    fn bytes(&mut self, field: u64, message: &Message) {
        self.field(field, &message.0);
    }

    fn field(&mut self, field: u64, bytes: &[u8]) {
        const LENGTH_DELIMITED: u64 = 2;
        put_varint(&mut self.0, field << 3 | LENGTH_DELIMITED);
        put_varint(&mut self.0, bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    fn packed(&mut self, field: u64, values: impl Iterator<Item = u64>) {
        let mut packed = Vec::new();
        for value in values {
            put_varint(&mut packed, value);
        }
        self.field(field, &packed);
    }
}

fn put_varint(bytes: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}
