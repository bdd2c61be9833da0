//! Public functions that no failure is injected into, with the reason.

/// Why functions are no operations, and which: a type, a colon and its functions; a colon is missing before free ones.
pub(crate) struct Reason(
    #[expect(dead_code, reason = "for who reads the list")] &'static str,
    &'static [&'static str],
);

impl Reason {
    /// The functions, as `Type::function`.
    pub(crate) fn names(&self) -> Vec<String> {
        let of = |entry: &&str| -> Vec<String> {
            match entry.split_once(": ") {
                Some((of, names)) => names
                    .split(' ')
                    .map(|name| format!("{of}::{name}"))
                    .collect(),
                None => entry.split(' ').map(str::to_owned).collect(),
            }
        };
        self.1.iter().flat_map(of).collect()
    }
}

pub(crate) const CORE: &[Reason] = &[
    Reason(
        "reads numbers and names, or the bytes of a handle",
        &[
            "BufferAllocator: is_closed parent_allocator root_allocator child_allocators name id info priority \
             rounding_policy allocation_manager is_debug reservation allocated_memory charged_memory \
             peak_memory_allocation limit cap init_reservation headroom is_over_limit stats snapshot verify memory_totals",
            "ArrowBuf: len is_empty as_slice as_ptr memory_address ref_count allocator belongs_to shares_root \
             allocation_id accounted_size allocation_size to_verbose_string get typed",
            "ArrowBufMut: len is_empty capacity as_slice as_mut_slice spare_capacity_mut as_mut_ptr allocator ref_count \
             accounted_size get typed",
            "BufferBuilder: len is_empty capacity as_slice as_mut_slice",
            "TypedBufferBuilder: len is_empty capacity as_slice",
            "BooleanBufferBuilder: len is_empty capacity as_slice bit",
            "AllocationReservation: size allocator",
            "ForeignAllocation: size charged_size",
            "ForeignError: is_out_of_memory",
            "ForeignRoom: size",
            "WeakForeign: id",
            "TreeAllocator: allocator refusal",
            "AccountedVec: capacity allocator",
            "Ask: bytes is_over may_block requester memory",
            "GiveWay: allocator requested waited",
            "WaitError: retry refusal",
            "SiteReport: live_total",
            "Heap: account over allocator_info",
            "may_move_in_place",
        ],
    ),
    Reason(
        "sets a field of a builder or a handle, and calls nothing",
        &[
            "RootAllocatorBuilder: name limit allocation_manager backend listener rounding_policy debug statistics credit \
             patience own_timer spill_reserve",
            "ChildAllocatorBuilder: group reservation limit priority listener rounding_policy",
            "RootAllocator: builder",
            "BufferAllocator: child downgrade reset_peak admit wait empty",
            "WeakBufferAllocator: upgrade",
            "ArrowBufMut: set_len clear truncate push_within_capacity set",
            "BufferBuilder: new",
            "TypedBufferBuilder: new",
            "BooleanBufferBuilder: new push_within_capacity",
            "ForeignAllocation: new with_release forced charged_as",
            "TreeAllocator: new",
            "AccountedVec: new",
            "SegmentRoundingPolicy: new",
            "Admission: reservation limit priority group listener rounding_policy at_most until",
            "Wait: at_most until after",
            "ReclaimInbox: set_reclaimable",
        ],
    ),
    Reason(
        "calls `drop` of the items, which are the program's, and does not allocate",
        &["AccountedVec: pop truncate clear"],
    ),
    Reason(
        "the builder's `build` over the default backend",
        &["RootAllocator: new try_new unlimited"],
    ),
    Reason(
        "shares what `ArrowBuf::slice` does, with an address that its caller vouches for",
        &["ArrowBuf: view_unchecked", "WeakForeign: upgrade"],
    ),
    Reason(
        "implemented by programs",
        &[
            "AllocationListener: hears_allocations on_pre_allocation on_allocation on_release on_failed_allocation \
             on_transfer on_child_added on_child_removed",
            "Reclaim: reclaimable reclaim",
            "RoundingPolicy: rounded_size",
        ],
    ),
    Reason(
        "of the whole process: sampling charges nothing",
        &["who_holds report reset start stop stop_all patterns"],
    ),
    Reason(
        "exports to a recorder of the facade `metrics`, and charges nothing",
        &["MetricsExporter: new peaks max_depth export"],
    ),
    Reason(
        "not public: called by operations of memory-arrow and memory-global",
        &[
            "Heap: open",
            "ForeignRoom: return_to_heap",
            "move_in_place undo_transfer",
        ],
    ),
];

pub(crate) const ARROW: &[Reason] = &[
    Reason(
        "reads numbers and names",
        &[
            "MemoryError: as_alloc_error is_out_of_memory",
            "Refused: is_out_of_memory",
            "Accounted: accounted_size",
            "ArrayBuilder: data_type len is_empty downcast_mut",
            "BooleanBuilder: len",
            "GenericBytesBuilder: len values",
            "FixedSizeBinaryBuilder: len",
            "GenericListBuilder: values len",
            "FixedSizeListBuilder: values len",
            "PrimitiveBuilder: capacity len values",
            "StructBuilder: field builders len",
            "GenericViewBuilder: len",
            "CsvReader: schema destination",
            "Destination: message_allocator allocator column_allocators",
            "IpcFileReader: schema destination num_batches",
            "IpcStreamReader: schema destination",
            "ParquetReader: schema num_rows destination",
        ],
    ),
    Reason(
        "sets a field, and calls nothing",
        &[
            "HandOver: new forced except kept shares",
            "Kept: new",
            "Shares: new",
            "BooleanBuilder: new",
            "GenericBytesBuilder: new",
            "BytesDictionaryBuilder: new",
            "PrimitiveDictionaryBuilder: new",
            "FixedSizeBinaryBuilder: new",
            "GenericListBuilder: new with_field",
            "FixedSizeListBuilder: new with_field",
            "PrimitiveBuilder: new with_data_type",
            "GenericViewBuilder: new",
            "CsvReader: with_projection with_longest_record",
            "Destination: with_messages",
            "IpcFileReader: with_projection set_destination",
            "IpcStreamReader: set_destination",
            "ParquetReader: with_projection set_destination",
            "TreePool: new",
        ],
    ),
    Reason(
        "what each builder's own functions of the same name do",
        &["ArrayBuilder: append_nulls finish_array"],
    ),
    Reason(
        "an unsafe `from_buffer`, over a file that is mapped",
        &["IpcFileReader: map"],
    ),
    Reason(
        "behind a feature that this package does not have, since it takes long to compile; batches are charged by \
         `Accounted::adopt`, as those of `CsvReader` are",
        &["ParquetReader: new"],
    ),
];

pub(crate) const GLOBAL: &[Reason] = &[Reason(
    "reads numbers and names",
    &[
        "Overdraft: excess",
        "InScope: scope",
        "is_installed supported unattributable",
        "Scope: current check",
        "Attributed: new inner",
    ],
)];

pub(crate) const HOST: &[Reason] = &[
    Reason(
        "sets a field; the hook is called by the governor's thread, and the crate's own tests have it panic",
        &[
            "Governor: over target every on_pressure",
            "HostLimit: fraction minus",
        ],
    ),
    Reason(
        "reads numbers and names",
        &["HostLimit: bytes source", "Reconciliation: source"],
    ),
];

pub(crate) const DEVICE: &[Reason] = &[
    Reason(
        "reads numbers and names",
        &[
            "DeviceAllocator: at accounting device is_cpu manager name allocated_memory peak_memory_allocation limit \
             stats snapshot is_closed",
            "AnyBuffer: len is_empty device is_cpu",
            "AnyAllocator: device",
            "DeviceBuf: len is_empty address device is_cpu ready allocator capacity accounted_size ref_count",
            "DeviceBufMut: len is_empty capacity address device allocator",
            "DeviceArray: schema device len is_empty offset null_count buffers children dictionary",
            "CDataError: is_out_of_memory",
            "ArrowDeviceArray: device length sync_event",
            "DeviceSchema: format name is_nullable metadata children dictionary",
            "ImportedStream: schema allocator",
            "DeviceKind: number from_number is_cpu name",
            "Device: new kind id is_cpu",
            "DeviceAddress: new get checked_add",
            "DeviceError: failed unavailable wrong_device malformed is_out_of_memory",
            "Event: is_done downcast_ref",
            "Stream: device downcast_ref",
            "DeviceRoot: builder to_allocator",
        ],
    ),
    Reason(
        "sets a field, and calls nothing",
        &[
            "DeviceAllocator: child wait",
            "DeviceChildBuilder: limit reservation group priority options",
            "DeviceArray: builder",
            "DeviceArrayBuilder: length offset null_count buffers children dictionary",
            "DeviceRootBuilder: name limit manager options",
            "DeviceWait: at_most until after",
            "Event: done new keep",
            "Stream: new",
            "DeviceSchema: new with_name with_nullable with_metadata with_dictionary to_c from_c",
            "CpuManager: new over",
        ],
    ),
    Reason(
        "passes the call on to the program's or the manager's own work",
        &["Event: wait", "Stream: record synchronize"],
    ),
    Reason("what `AnyBuffer` calls", &["AnyAllocator: view copy"]),
    Reason(
        "implemented by programs",
        &[
            "DeviceEvent: is_done wait wait_in_drop",
            "DeviceStream: device wait_for record",
            "DeviceManager: device name allocate deallocate copy_in copy_out copy_within copy_across view_on_cpu \
             view_of_cpu view_of stream stats",
        ],
    ),
    Reason(
        "a device for tests",
        &[
            "SimDevice: new builder hazards fail_nth panic_nth used_bytes",
            "SimDeviceBuilder: id capacity latency late build",
        ],
    ),
];
