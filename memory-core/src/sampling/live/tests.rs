use super::*;

/// A reset once set the samples of such a site to zero, or forgot the site: then reports left the sample
/// out as long as it lived.
#[test]
fn a_reset_keeps_the_sites_of_samples_that_are_about_to_be_followed() {
    let stands_for = Estimate {
        count: 1.0,
        bytes: 64.0,
    };
    let (stack, allocator) = (StackTrace::capture(), AllocatorInfo::nobody());
    // No slot has this address.
    let slot = 3;
    let part = count_at(stack, stands_for);
    reset();
    assert!(follow(slot, &allocator, part));

    let live = || {
        let report = report();
        let site = report.sites.iter().find(|site| site.stack == Some(stack));
        site.map(|site| (site.samples, site.live_total()))
    };
    assert_eq!(live(), Some((1, stands_for)));
    // A sample that grew counts as alive once, not twice.
    assert!(follow(slot, &allocator, count_at(stack, stands_for)));
    reset();
    assert_eq!(live().map(|(samples, _)| samples), Some(1));
    forget(slot);
    reset();
    assert_eq!(live(), None);
}
