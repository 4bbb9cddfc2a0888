// The fibers behind cuda_on_cpu.h, and `launch`, which tests call through ctypes.
#include "cuda_on_cpu.h"

#include <ucontext.h>

#include <memory>
#include <random>
#include <vector>

Dim threadIdx, blockIdx;

// The linker's, around the section of shared memory.
extern char __start_cuda_shared[], __stop_cuda_shared[];

namespace {

enum class State { kReady, kAtBlock, kAtWarp, kEnded };

constexpr size_t kStackBytes = 256 * 1024;  // AddressSanitizer's frames are wide
constexpr int kWarp = 32;

struct Fiber {
    ucontext_t context;
    std::unique_ptr<char[]> stack{new char[kStackBytes]};
    State state = State::kEnded;
    int exchange = 0;  // alternates: a lane may offer its next value before its neighbours have read the last
};

struct Arguments {
    const void *jobs, *levels;
    void *slot, *sums;
    const int* scalars;
};
using Kernel = void (*)(const void*, const void*, void*, void*, int, int, int, int, int, int);

std::vector<Fiber> fibers;
std::vector<uint32_t> slots;  // warp, exchange, lane
ucontext_t scheduler;
Kernel kernel;
Arguments arguments;

Fiber& current() { return fibers[threadIdx.x]; }

void wait_as(State state) {
    const unsigned int thread = threadIdx.x;
    fibers[thread].state = state;
    swapcontext(&fibers[thread].context, &scheduler);
}

void body() {
    const int* s = arguments.scalars;
    kernel(arguments.jobs, arguments.levels, arguments.slot, arguments.sums, s[0], s[1], s[2], s[3], s[4], s[5]);
    wait_as(State::kEnded);
}

// Sets free whoever waits with all of its kind: false if nobody could be.
bool release(int begin, int end, State waiting) {
    bool any = false;
    for (int i = begin; i < end; ++i) {
        if (fibers[i].state != waiting && fibers[i].state != State::kEnded) return false;
        any = any || fibers[i].state == waiting;
    }
    for (int i = begin; i < end; ++i) {
        if (fibers[i].state == waiting) fibers[i].state = State::kReady;
    }
    return any;
}

bool run_block(const std::vector<int>& order) {
    const int threads = static_cast<int>(fibers.size());
    std::memset(__start_cuda_shared, 0xA5, __stop_cuda_shared - __start_cuda_shared);
    for (Fiber& fiber : fibers) {
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = fiber.stack.get();
        fiber.context.uc_stack.ss_size = kStackBytes;
        fiber.context.uc_link = nullptr;
        fiber.state = State::kReady;
        fiber.exchange = 0;
        makecontext(&fiber.context, body, 0);
    }
    for (;;) {
        for (const int thread : order) {
            if (fibers[thread].state != State::kReady) continue;
            threadIdx.x = thread;
            swapcontext(&scheduler, &fibers[thread].context);
        }
        bool released = false;
        for (int warp = 0; warp < threads; warp += kWarp) {
            released = release(warp, min(warp + kWarp, threads), State::kAtWarp) || released;
        }
        released = released || release(0, threads, State::kAtBlock);
        if (!released) break;
    }
    return std::all_of(fibers.begin(), fibers.end(), [](const Fiber& f) { return f.state == State::kEnded; });
}

}  // namespace

namespace on_cpu {

void meet_block() { wait_as(State::kAtBlock); }
void meet_warp() { wait_as(State::kAtWarp); }
uint32_t& slot_of(int lane) {
    return slots[(threadIdx.x / kWarp * 2 + current().exchange) * kWarp + lane];
}
void next_exchange() { current().exchange ^= 1; }

}  // namespace on_cpu

// Runs the kernel over grid x grid[1] x grid[2] blocks. order: 0 forward, 1 reverse, otherwise a seed to shuffle each
// block's threads by. Returns 0, or 1 if threads of a block waited for each other for ever.
extern "C" int launch(Kernel what, const int* grid, int threads, unsigned int order, const void* jobs,
                      const void* levels, void* slot, void* sums, const int* scalars) {
    kernel = what;
    arguments = {jobs, levels, slot, sums, scalars};
    if (static_cast<int>(fibers.size()) != threads) fibers = std::vector<Fiber>(threads);
    slots.assign(static_cast<size_t>(threads + kWarp) * 2, 0xA5A5A5A5u);
    std::vector<int> sequence(threads);
    for (int i = 0; i < threads; ++i) sequence[i] = order == 1 ? threads - 1 - i : i;
    std::mt19937 random(order);
    for (int z = 0; z < grid[2]; ++z) {
        for (int y = 0; y < grid[1]; ++y) {
            for (int x = 0; x < grid[0]; ++x) {
                if (order > 1) std::shuffle(sequence.begin(), sequence.end(), random);
                blockIdx = {static_cast<unsigned>(x), static_cast<unsigned>(y), static_cast<unsigned>(z)};
                if (!run_block(sequence)) return 1;
            }
        }
    }
    return 0;
}
