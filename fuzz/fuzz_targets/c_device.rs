//! Imports arrays over the C Device Data Interface, on the CPU and on a simulated device, after changing their
//! numbers, pointers, formats, devices and events. Each change is detectable, or refers to memory that exists.
//!
//! The import returns an array or an error, and the producer's release is called once. An array that was not changed
//! has the values that were exported. One that was changed becomes a valid array of arrow-rs, or an error. No tree stays
//! charged, and the device has no block and saw no copy in a wrong order.
//!
//! Beside that, any text and any tree of types is read as a format: a type that is accepted survives its way to C and
//! back.
#![no_main]
#![expect(unsafe_code, reason = "changes C structures and imports them")]

use std::ffi::CString;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arrow_memory_core::RootAllocator;
use arrow_memory_device::c_data::{
    ArrowDeviceArray, ArrowSchema, CDataError, DeviceArray, DeviceSchema,
};
use arrow_memory_device::{AnyBuffer, DeviceRoot, SimDevice};
use arrow_memory_fuzz::deps::arrow_array::{Array, ArrayRef, Int32Array};
use arrow_memory_fuzz::producer::{disguise, raw};
use arrow_memory_fuzz::raw::{RawSchema, change, unknown_format};
use arrow_memory_fuzz::{Input, print_panics};
use arrow_memory_system as _;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    print_panics();
    let mut input = Input(bytes);
    if input.byte() % 4 == 0 {
        round_trip_of_a_type(&mut input);
    } else {
        Case::new(&mut input).run(&mut input);
    }
});

/// The trees of a run. Buffers of the device are charged in two of them.
struct Case {
    cpu: DeviceRoot,
    device: Arc<SimDevice>,
    from: DeviceRoot,
    into: DeviceRoot,
}

impl Case {
    fn new(input: &mut Input<'_>) -> Self {
        let device = SimDevice::builder().late(true).build();
        let root = |on_cpu: bool, limit| {
            let mut root = DeviceRoot::builder().limit(limit);
            if !on_cpu {
                root = root.manager(Arc::clone(&device) as _);
            }
            root.build().expect("backends are linked")
        };
        let on_cpu = input.flag();
        let limit = match input.byte() % 4 {
            0 => usize::from(input.byte()) * 64,
            _ => usize::MAX,
        };
        Self {
            cpu: root(true, usize::MAX),
            from: root(on_cpu, usize::MAX),
            into: root(on_cpu, limit),
            device,
        }
    }

    fn run(self, input: &mut Input<'_>) {
        let released = Arc::new(AtomicUsize::new(0));
        let (array, values) = self.array(input);
        let mut exported = array.export().expect("the work does not fail");
        let is_foreign = input.flag();
        if is_foreign {
            // Other libraries have events of another kind.
            array.synchronize().expect("the work does not fail");
            disguise(&mut exported, &released);
            set_event(&mut exported, 0);
        }
        let schema = Arc::clone(array.schema());
        let kept = Some(array).filter(|_| input.flag());

        let changes = input.byte() % 4;
        for _ in 0..changes {
            alter(&mut exported, input);
        }
        let (wrong_format, format) = (input.byte() % 8 == 0, unknown_format(input));
        let schema = match wrong_format {
            true => through_c(&schema, Some(&format)),
            false => through_c(&schema, None).map(|same| {
                assert_eq!(same, *schema);
                same
            }),
        };
        match schema {
            // SAFETY: each change is detectable, or refers to memory that exists.
            Ok(schema) => match unsafe { DeviceArray::import(exported, schema, &self.into) } {
                Ok(imported) => self.check(&imported, &values, changes > 0, input),
                Err(_) => {}
            },
            Err(_) => drop(exported),
        }

        drop(kept);
        assert_eq!(released.load(Ordering::Relaxed), usize::from(is_foreign));
        self.finish();
    }

    /// An array on the device, with the same values on the CPU.
    fn array(&self, input: &mut Input<'_>) -> (DeviceArray, ArrayRef) {
        if input.byte() % 4 == 0 && !self.from.is_cpu() {
            return self.unfinished(input);
        }
        let mut values = input.array();
        if input.byte() % 4 == 0 {
            let offset = input.below(values.len() + 1);
            values = values.slice(offset, input.below(values.len() - offset + 1));
        }
        let array = DeviceArray::from_arrow(&values, &self.cpu).expect("types have formats");
        let array = array.copy_to(&self.from).expect("there is no limit");
        (array, values)
    }

    /// An array that is still being copied to the device.
    fn unfinished(&self, input: &mut Input<'_>) -> (DeviceArray, ArrayRef) {
        let host = RootAllocator::unlimited();
        let values = vec![i32::from(input.byte()); 1 + input.below(50)];
        let bytes: Vec<u8> = values.iter().flat_map(|it| it.to_ne_bytes()).collect();
        let source = host.buffer_from_slice(&bytes).expect("there is no limit");
        let stream = self.from.stream().expect("streams do not fail");
        let copied = source.copy_to_on(&self.from, &stream);
        let schema = DeviceSchema::new("i", []).expect("it is a format");
        let array = DeviceArray::builder(schema, self.from.device())
            .length(values.len())
            .null_count(0)
            .buffers([None, Some(copied.expect("there is no limit"))]);
        let array = array.build().expect("the buffer is long enough");
        (array, Arc::new(Int32Array::from(values)))
    }

    /// Uses what was imported.
    fn check(
        &self,
        imported: &DeviceArray,
        values: &ArrayRef,
        is_changed: bool,
        input: &mut Input<'_>,
    ) {
        let offset = input.below(imported.len() + 1);
        let length = input.below(imported.len() - offset + 1);
        let slice = imported.slice(offset, length);
        if is_changed {
            // The simulated device refuses to copy what it does not have.
            for array in [imported, &slice] {
                let copied = array.copy_to(&self.cpu);
                if let Ok(array) = copied
                    .map_err(CDataError::from)
                    .and_then(|it| it.to_arrow())
                {
                    let data = array.to_data();
                    data.validate_full().expect("what was converted is valid");
                }
            }
            return;
        }
        let copied = imported.copy_to(&self.cpu).expect("there is no limit");
        let array = copied.to_arrow().expect("the values are valid");
        assert_eq!(array.to_data(), values.to_data());
        let copied = slice.copy_to(&self.cpu).expect("there is no limit");
        let array = copied.to_arrow().expect("the values are valid");
        assert_eq!(array.to_data(), values.slice(offset, length).to_data());
    }

    /// Checks that nothing is left.
    fn finish(self) {
        for root in [&self.cpu, &self.from, &self.into] {
            assert_eq!(root.allocated_memory(), 0);
            assert_eq!(root.accounting().verify(), Ok(()));
            root.close().expect("nothing is outstanding");
        }
        assert_eq!(self.device.used_bytes(), 0);
        assert_eq!(self.device.hazards(), []);
    }
}

/// Changes an exported array.
fn alter(exported: &mut ArrowDeviceArray, input: &mut Input<'_>) {
    let odd = 8 * usize::from(input.byte()) + 1;
    match input.byte() % 12 {
        0 => set_device(exported, i32::from(input.byte()) - 2, None),
        1 => set_device(exported, i32::MAX, None),
        2 => set_device(exported, 12, Some(input.number())),
        // An event that is nowhere. It is refused, unless the array is of this program.
        3 => set_event(exported, odd),
        4 => raw(exported).dictionary = std::ptr::null_mut(),
        // Pointers that are not aligned are not followed.
        5 => raw(exported).dictionary = std::ptr::without_provenance_mut(odd),
        6 => raw(exported).children = std::ptr::without_provenance_mut(odd),
        7 => raw(exported).buffers = std::ptr::without_provenance_mut(odd),
        _ => {
            let raw = raw(exported);
            // Misaligned pointers cannot be followed here, either.
            if raw.children.is_aligned() && raw.buffers.is_aligned() {
                change(raw, input);
            }
        }
    }
}

/// The fields of `struct ArrowDeviceArray` behind the array.
#[repr(C)]
struct RawDevice {
    array: [u64; 10],
    id: i64,
    kind: i32,
    event: usize,
}

fn device(exported: &mut ArrowDeviceArray) -> &mut RawDevice {
    // SAFETY: the type has the layout of the first fields of `struct ArrowDeviceArray`, any bits of which are numbers.
    unsafe { &mut *std::ptr::from_mut(exported).cast::<RawDevice>() }
}

fn set_device(exported: &mut ArrowDeviceArray, kind: i32, id: Option<i64>) {
    let device = device(exported);
    device.kind = kind;
    device.id = id.unwrap_or(device.id);
}

fn set_event(exported: &mut ArrowDeviceArray, event: usize) {
    device(exported).event = event;
}

/// A type on its way to C and back, perhaps with another format.
fn through_c(schema: &DeviceSchema, format: Option<&CString>) -> Result<DeviceSchema, CDataError> {
    let mut structure: ArrowSchema = schema.to_c()?;
    // SAFETY: both types have the layout of `struct ArrowSchema`.
    let raw = unsafe { &mut *std::ptr::from_mut(&mut structure).cast::<RawSchema>() };
    if let Some(format) = format {
        raw.format = format.as_ptr();
    }
    // SAFETY: the structure is one of this program, but for the format, which is a C string.
    unsafe { DeviceSchema::from_c(&structure) }
}

fn round_trip_of_a_type(input: &mut Input<'_>) {
    let Ok(schema) = schema(input, 4) else {
        return;
    };
    match through_c(&schema, None) {
        Ok(same) => assert_eq!(same, schema),
        // What C cannot express: a zero byte in a text.
        Err(_) => assert!(format!("{schema:?}").contains("\\0")),
    }
    let format = CString::new(input.bytes(20));
    if let Ok(format) = format
        && let Ok(other) = through_c(&schema, Some(&format))
    {
        assert_eq!(other.format().as_bytes(), format.as_bytes());
    }
}

const FORMATS: [&str; 32] = [
    "n",
    "b",
    "c",
    "S",
    "i",
    "L",
    "e",
    "f",
    "g",
    "u",
    "Z",
    "vu",
    "vz",
    "w:3",
    "d:5,2",
    "d:50,2,256",
    "tdD",
    "tts",
    "tsn:UTC",
    "tDu",
    "tiM",
    "tin",
    "+s",
    "+l",
    "+L",
    "+m",
    "+w:2",
    "+vl",
    "+vL",
    "+r",
    "+us:0,1",
    "+ud:0,1",
];

/// A type whose format may be any text.
fn schema(input: &mut Input<'_>, depth: usize) -> Result<DeviceSchema, CDataError> {
    let children = if depth == 0 { 0 } else { input.below(4) };
    let children: Vec<DeviceSchema> = (0..children)
        .map(|_| schema(input, depth - 1))
        .collect::<Result<_, _>>()?;
    let choice = usize::from(input.byte());
    let text;
    let format = match FORMATS.get(choice / 4) {
        Some(&format) => format,
        None => {
            text = String::from_utf8_lossy(input.bytes(choice % 16)).into_owned();
            &text[..]
        }
    };
    let schema = DeviceSchema::new(format, children)?;
    let (how, length) = (input.byte(), input.below(8));
    let name = String::from_utf8_lossy(input.bytes(length)).into_owned();
    let mut schema = schema.with_name(&name).with_nullable(how & 1 > 0);
    if how & 2 > 0 {
        let pairs = (0..how / 64).map(|_| (input.bytes(3).to_vec(), input.bytes(2).to_vec()));
        schema = schema.with_metadata(pairs.collect::<Vec<_>>());
    }
    if how & 4 > 0 {
        let values = self::schema(input, depth.saturating_sub(1))?;
        schema = schema.with_dictionary(values)?;
    }
    Ok(schema)
}
