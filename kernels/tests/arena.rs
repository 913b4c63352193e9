//! The arena as a program's allocator. One test: an arena is the process's.

use kernels::Arena;

#[global_allocator]
static ALLOCATOR: Arena = Arena;

const MIB: usize = 1 << 20;

/// A block whose every byte is `mark`.
fn block(size: usize, mark: u8) -> Vec<u8> {
    vec![mark; size]
}

fn intact(block: &[u8], mark: u8) -> bool {
    block.iter().all(|byte| *byte == mark)
}

#[test]
fn blocks_are_apart_zeroed_and_found_again() {
    let before = block(MIB, 1);
    assert_eq!(Arena::used().reserved, 0);
    let arena = Arena::reserve(64 * MIB).expect("this program allocates through it");
    assert!(Arena::reserve(MIB).is_none(), "one at a time");

    // What is small, or was there before, is not the arena's.
    let small = block(1000, 2);
    drop(before);
    assert_eq!(Arena::used().live, 0);

    // Blocks of many sizes, taken and given back by two threads in an order of their own.
    std::thread::scope(|scope| {
        for seed in [7u64, 11] {
            scope.spawn(move || {
                let mut held: Vec<(Vec<u8>, u8)> = Vec::new();
                let mut random = seed;
                for round in 0..2000u32 {
                    random = random
                        .wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(1);
                    let draw = (random >> 33) as usize;
                    if held.len() > 12 || (draw.is_multiple_of(3) && !held.is_empty()) {
                        let (block, mark) = held.swap_remove(draw % held.len());
                        assert!(intact(&block, mark), "round {round}");
                    } else {
                        let mark = (round % 251) as u8;
                        held.push((block((65 << 10) + draw % (2 * MIB), mark), mark));
                    }
                }
            });
        }
    });
    let used = Arena::used();
    assert_eq!(used.live, 0);
    assert!(used.peak > 8 * MIB && used.peak <= used.touched && used.touched <= used.reserved);

    // Everything given back is one block again, and a block that was written is zero where zeros are asked for.
    let all = vec![0u8; 64 * MIB];
    assert!(intact(&all, 0));
    assert_eq!(Arena::used().live, 64 * MIB);

    // What does not fit comes from the system, and is counted.
    let missed = Arena::used().missed;
    let more = block(MIB, 3);
    assert!(intact(&more, 3));
    assert_eq!(Arena::used().missed, missed + MIB);
    drop((all, more));

    // Growing moves a block and keeps what is in it.
    let mut grown = block(MIB, 4);
    grown.reserve_exact(5 * MIB);
    grown.resize(6 * MIB, 5);
    assert!(intact(&grown[..MIB], 4) && intact(&grown[MIB..], 5));
    assert_eq!(Arena::used().live, 6 * MIB);

    Arena::reset_peak();
    assert_eq!(Arena::used().peak, 6 * MIB);
    drop(grown);
    assert!(intact(&small, 2));

    // The range goes with the reservation, and a new one can be made.
    drop(arena);
    assert_eq!(Arena::used().reserved, 0);
    let again = Arena::reserve(MIB);
    assert!(again.is_some());
    let held = block(512 << 10, 6);
    drop(again);
    assert!(
        intact(&held, 6),
        "a block that is still held keeps its address"
    );
}
