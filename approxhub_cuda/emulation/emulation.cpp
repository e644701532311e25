// The scheduler of emulated blocks, and a runtime with one card.
#include "cuda_runtime.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#include <map>
#include <mutex>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#elif defined(EMULATION_SEES_RACES)
#include <sanitizer/tsan_interface.h>
extern "C" void AnnotateIgnoreReadsBegin(const char *file, int line);
extern "C" void AnnotateIgnoreReadsEnd(const char *file, int line);
extern "C" void AnnotateIgnoreWritesBegin(const char *file, int line);
extern "C" void AnnotateIgnoreWritesEnd(const char *file, int line);
#endif

thread_local uint3 threadIdx, blockIdx;
thread_local dim3 blockDim, gridDim;

namespace {

constexpr size_t kStack = 128 * 1024;
constexpr int kMostThreads = 1024, kWarpSize = 32;
constexpr size_t kExchanged = 64;  // bytes that one thread may bring to an exchange

// --- the card ---------------------------------------------------------------------------------------

struct Card {
    uint64_t seed = 1;
    int major = 9, minor = 0, processors = 4, shared = 227 * 1024;
    int refused = 0;  // launches to refuse, as a card out of resources does
};
Card card;
std::map<const void *, int> allowed;  // dynamic shared memory, where more than 48 KiB
std::mutex mutex;

// --- switching between stacks -----------------------------------------------------------------------

#if defined(__x86_64__)
extern "C" void emulation_switch(void **save, void *load);
asm(R"(
.text
.globl emulation_switch
.hidden emulation_switch
.type emulation_switch, @function
emulation_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size emulation_switch, . - emulation_switch
)");

struct Context {
    void *sp = nullptr;
    void begin(unsigned char *stack, void (*entry)()) {
        void **top = reinterpret_cast<void **>(stack + kStack);
        *--top = nullptr;  // where entry would return to: it does not
        *--top = reinterpret_cast<void *>(entry);
        for (int i = 0; i < 6; i++) *--top = nullptr;
        sp = top;
    }
    void leave_for(Context &other) { emulation_switch(&sp, other.sp); }
};
#else
#include <ucontext.h>
struct Context {
    ucontext_t context;
    void begin(unsigned char *stack, void (*entry)()) {
        getcontext(&context);
        context.uc_stack.ss_sp = stack;
        context.uc_stack.ss_size = kStack;
        context.uc_link = nullptr;
        makecontext(&context, entry, 0);
    }
    void leave_for(Context &other) { swapcontext(&context, &other.context); }
};
#endif

enum State { kReady, kAtBarrier, kAtExchange, kDone };

struct Fiber {
    Context context;
    State state = kReady;
    unsigned exchanges = 0, barriers = 0;
    unsigned char *stack = nullptr;
    void *seen_as = nullptr;  // by a sanitizer
};

// One launch of one host thread.
struct Launch {
    std::vector<Fiber> fibers;
    std::vector<unsigned char> exchanged;  // two for each warp, which take turns
    unsigned char *shared = nullptr;
    size_t shared_bytes = 0;
    Context scheduler;
    int current = 0;
    uint64_t random = 0;
    const std::function<void()> *thread = nullptr;
    const void *own_stack = nullptr;  // of the scheduler, as a sanitizer sees it
    size_t own_size = 0;
    void *seen_as = nullptr;
    unsigned char *met = nullptr;  // where threads of this block meet; see Watch
    std::vector<void *> seen;      // all threads, by a sanitizer
};
thread_local Launch *launch = nullptr;

uint64_t next(uint64_t &state) {  // splitmix64
    uint64_t z = state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

// Memory that nobody has used before, as far as a sanitizer can tell.
unsigned char *mapped(size_t bytes) {
    void *found = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (found == MAP_FAILED) abort();
    return static_cast<unsigned char *>(found);
}

// Stacks are kept by the host thread that uses them.
struct Stacks {
    unsigned char *memory = nullptr;
    ~Stacks() { forget(); }
    void forget() {
        if (memory) munmap(memory, kStack * kMostThreads);
        memory = nullptr;
    }
    unsigned char *at(int i) {
        if (!memory) memory = mapped(kStack * kMostThreads);
        return memory + kStack * i;
    }
};
thread_local Stacks stacks;

// --- what sanitizers are told -----------------------------------------------------------------------

// Nothing, where there is none.
struct Unwatched {
    static void launched() {}
    static void waited_for() {}
    static void began() {
        // Memory of just this size, so that a sanitizer sees what lies beyond.
        launch->shared = static_cast<unsigned char *>(
            aligned_alloc(16, (launch->shared_bytes + 15) / 16 * 16));
    }
    static void ended() { free(launch->shared); }
    static void created() {}
    static void entered() {}
    static void resume(Fiber &fiber) { launch->scheduler.leave_for(fiber.context); }
    static void suspend(Fiber &fiber, bool) { fiber.context.leave_for(launch->scheduler); }
    static void arrived(unsigned, unsigned) {}
    static void departed(unsigned, unsigned) {}
};

#if defined(__SANITIZE_ADDRESS__)

// The address sanitizer follows stacks.
struct Watch : Unwatched {
    static void entered() {
        __sanitizer_finish_switch_fiber(nullptr, &launch->own_stack, &launch->own_size);
    }
    static void resume(Fiber &fiber) {
        void *fake;
        __sanitizer_start_switch_fiber(&fake, fiber.stack, kStack);
        launch->scheduler.leave_for(fiber.context);
        __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
    }
    static void suspend(Fiber &fiber, bool for_good) {
        void *fake;
        __sanitizer_start_switch_fiber(for_good ? nullptr : &fake, launch->own_stack,
                                       launch->own_size);
        fiber.context.leave_for(launch->scheduler);
        __sanitizer_finish_switch_fiber(fake, &launch->own_stack, &launch->own_size);
    }
};

#elif defined(EMULATION_SEES_RACES)

// The thread sanitizer takes each thread of each block for one of its own, and is told who waits
// for whom: all threads for the launch, the host for all threads, and threads of a block for each
// other at barriers; not that one fiber goes on after another. So it sees two accesses to one
// address that only these turns keep apart. Blocks are never in order.
// This file is compiled without it, the kernels with it.
struct Watch : Unwatched {
    static void launched() { launch->seen_as = __tsan_get_current_fiber(); }
    static void waited_for() {
        __tsan_acquire(launch);
        for (void *thread : launch->seen) __tsan_destroy_fiber(thread);
    }
    // A block has memory of its own: what another one left there would be a race.
    static void began() {
        const Unseen unseen;
        launch->shared = mapped(launch->shared_bytes + 1);
        launch->met = mapped(kMet);
    }
    static void ended() {
        const Unseen unseen;
        munmap(launch->shared, launch->shared_bytes + 1);
        munmap(launch->met, kMet);
        stacks.forget();
    }
    // They stay until the launch is over, as long as there is room: of a thread that is gone, races
    // with later ones are not seen.
    static void created() {
        std::vector<void *> &all = launch->seen;
        for (Fiber &fiber : launch->fibers) all.push_back(fiber.seen_as = __tsan_create_fiber(0));
        const size_t gone = all.size() > kMostSeen ? launch->fibers.size() : 0;
        for (size_t i = 0; i < gone; i++) __tsan_destroy_fiber(all[i]);
        all.erase(all.begin(), all.begin() + gone);
    }
    static void resume(Fiber &fiber) {
        __tsan_switch_to_fiber(fiber.seen_as, __tsan_switch_to_fiber_no_sync);
        Unwatched::resume(fiber);
    }
    static void suspend(Fiber &fiber, bool for_good) {
        if (for_good) __tsan_release(launch);
        __tsan_switch_to_fiber(launch->seen_as, __tsan_switch_to_fiber_no_sync);
        Unwatched::suspend(fiber, for_good);
    }
    // Two places for each meeting: who goes on first comes to the next one before others left this.
    static void arrived(unsigned place, unsigned turn) { __tsan_release(at(place, turn)); }
    static void departed(unsigned place, unsigned turn) { __tsan_acquire(at(place, turn)); }

   private:
    // Memory that comes and goes here is no access of the host's.
    struct Unseen {
        Unseen() {
            AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
            AnnotateIgnoreWritesBegin(__FILE__, __LINE__);
        }
        ~Unseen() {
            AnnotateIgnoreWritesEnd(__FILE__, __LINE__);
            AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
        }
    };
    static constexpr size_t kMet = 4096, kMostSeen = 5000;
    static void *at(unsigned place, unsigned turn) { return launch->met + 16 * place + 8 * turn; }
};

#else

using Watch = Unwatched;

#endif

void to_fiber(int i) {
    launch->current = i;
    threadIdx = {static_cast<unsigned>(i), 0, 0};
    Watch::resume(launch->fibers[i]);
}

void to_scheduler(State state) {
    Fiber &fiber = launch->fibers[launch->current];
    fiber.state = state;
    Watch::suspend(fiber, state == kDone);
}

void body() {
    Watch::entered();
    (*launch->thread)();
    to_scheduler(kDone);
    abort();
}

[[noreturn]] void stuck(const char *what) {
    fprintf(stderr, "emulated block %u: %s\n", blockIdx.x, what);
    fflush(stderr);
    abort();
}

// Lets those go on that everybody they wait for has joined; false when all are done.
bool release() {
    std::vector<Fiber> &fibers = launch->fibers;
    const int threads = static_cast<int>(fibers.size());
    int at_barrier = 0, done = 0, released = 0;
    for (int first = 0; first < threads; first += kWarpSize) {
        int together = 0;
        for (int i = first; i < first + kWarpSize; i++) {
            at_barrier += fibers[i].state == kAtBarrier;
            done += fibers[i].state == kDone;
            together += fibers[i].state == kAtExchange;
        }
        if (together == kWarpSize) {
            for (int i = first; i < first + kWarpSize; i++) fibers[i].state = kReady;
            released += kWarpSize;
        }
    }
    if (done == threads) return false;
    if (at_barrier == threads) {
        for (Fiber &fiber : fibers) fiber.state = kReady;
        released = threads;
    }
    if (!released) stuck("threads wait at a barrier or an exchange that others never reach");
    return true;
}

void run_block() {
    Launch &l = *launch;
    const int threads = static_cast<int>(l.fibers.size());
    Watch::began();
    for (size_t at = 0; at < l.shared_bytes; at++) {
        l.shared[at] = static_cast<unsigned char>((at * 0x9e3779b1u + card.seed) >> 13);
    }
    for (int i = 0; i < threads; i++) {
        Fiber &fiber = l.fibers[i];
        fiber.stack = stacks.at(i);
        fiber.state = kReady;
        fiber.exchanges = fiber.barriers = 0;
        fiber.context.begin(fiber.stack, body);
    }
    Watch::created();
    do {
        // Each in its turn, from a random one on and with a random odd step: all of them, since
        // the number of threads is taken up to a power of two.
        int all = 1;
        while (all < threads) all *= 2;
        const uint64_t r = next(l.random);
        int at = static_cast<int>(r % all);
        const int step = static_cast<int>((r >> 32) % all) | 1;
        for (int n = 0; n < all; n++, at = (at + step) % all) {
            if (at < threads && l.fibers[at].state == kReady) to_fiber(at);
        }
    } while (release());
    Watch::ended();
}

}  // namespace

namespace emulation {

unsigned char *shared_memory() { return launch->shared; }

void barrier() {
    const unsigned turn = launch->fibers[launch->current].barriers++ & 1u;
    Watch::arrived(0, turn);
    to_scheduler(kAtBarrier);
    Watch::departed(0, turn);
}

void warp_barrier() {
    const unsigned place = 1 + static_cast<unsigned>(launch->current) / kWarpSize;
    const unsigned turn = launch->fibers[launch->current].exchanges & 1u;
    Watch::arrived(place, turn);
    exchange("", 1);
    Watch::departed(place, turn);
}

const unsigned char *exchange(const void *mine, size_t bytes) {
    Launch &l = *launch;
    if (bytes > kExchanged) stuck("an exchange of more than 64 bytes");
    const int warp = l.current / kWarpSize, lane = l.current % kWarpSize;
    // Two buffers: who brings something to the next exchange does not disturb who still reads.
    const unsigned turn = l.fibers[l.current].exchanges++ & 1u;
    unsigned char *all = l.exchanged.data() + (2 * warp + turn) * kWarpSize * kExchanged;
    // Not by memcpy, which the thread sanitizer sees, also where it is called by what it does not.
    for (size_t i = 0; i < bytes; i++) {
        all[lane * bytes + i] = static_cast<const unsigned char *>(mine)[i];
    }
    to_scheduler(kAtExchange);
    return all;
}

void multiply_add(int32_t (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], bool signed_a,
                  bool signed_b) {
    uint32_t mine[6] = {a[0], a[1], a[2], a[3], b[0], b[1]};
    const unsigned char *all = exchange(mine, sizeof mine);
    const int lane = launch->current % kWarpSize;
    for (int i = 0; i < 4; i++) {
        const int row = lane / 4 + 8 * (i / 2), column = 2 * (lane % 4) + i % 2;
        uint32_t sum = static_cast<uint32_t>(d[i]);
        for (int k = 0; k < 32; k++) {
            // Who holds an element: four k to a word, sixteen to the words of four lanes.
            const int word = 2 * (k / 16) + row / 8, byte = k % 4, holder = k % 16 / 4;
            const unsigned char x = all[(4 * (row % 8) + holder) * sizeof mine + 4 * word + byte];
            const unsigned char y =
                all[(4 * column + holder) * sizeof mine + 4 * (4 + k / 16) + byte];
            const int32_t left = signed_a ? static_cast<int8_t>(x) : x;
            const int32_t right = signed_b ? static_cast<int8_t>(y) : y;
            sum += static_cast<uint32_t>(left * right);
        }
        d[i] = static_cast<int32_t>(sum);
    }
}

cudaError_t run(const cudaLaunchConfig_t &config, const void *function,
                const std::function<void()> &thread) {
    const int threads = static_cast<int>(config.blockDim.x);
    {
        std::lock_guard<std::mutex> lock(mutex);
        if (card.refused > 0) {
            card.refused--;
            return cudaErrorLaunchOutOfResources;
        }
        const auto found = allowed.find(function);
        const size_t most = found == allowed.end() ? 48 * 1024 : found->second;
        if (config.dynamicSmemBytes > most) return cudaErrorInvalidValue;
    }
    if (threads < 1 || threads > kMostThreads || threads % kWarpSize || config.gridDim.x < 1 ||
        config.gridDim.x > 0x7fffffffu) {
        return cudaErrorInvalidConfiguration;
    }
    Launch l;
    l.fibers.resize(threads);
    l.exchanged.resize(2 * threads * kExchanged);
    l.random = card.seed;
    l.thread = &thread;
    l.shared_bytes = config.dynamicSmemBytes;
    launch = &l;
    Watch::launched();
    blockDim = config.blockDim;
    gridDim = config.gridDim;
    const unsigned blocks = config.gridDim.x;
    const unsigned first = static_cast<unsigned>(next(l.random) % blocks);
    const bool down = next(l.random) & 1u;
    for (unsigned n = 0; n < blocks; n++) {
        const unsigned i = static_cast<unsigned>((static_cast<uint64_t>(first) + n) % blocks);
        blockIdx = {down ? blocks - 1 - i : i, 0, 0};
        run_block();
    }
    Watch::waited_for();
    launch = nullptr;
    return cudaSuccess;
}

}  // namespace emulation

// --- the runtime -------------------------------------------------------------------------------------

// What a test wants the card to be; see Card.
extern "C" __attribute__((visibility("default"))) void ah_emulation_configure(
    uint64_t seed, int major, int minor, int processors, int shared, int refused) {
    std::lock_guard<std::mutex> lock(mutex);
    card.seed = seed;
    card.major = major;
    card.minor = minor;
    card.processors = processors;
    card.shared = shared;
    card.refused = refused;
}

static thread_local int current_device = 0;

cudaError_t cudaGetDeviceCount(int *count) {
    *count = 1;
    return cudaSuccess;
}
cudaError_t cudaGetDevice(int *device) {
    *device = current_device;
    return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) {
    if (device != 0) return cudaErrorInvalidDevice;
    current_device = device;
    return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr attribute, int device) {
    if (device != 0) return cudaErrorInvalidDevice;
    switch (attribute) {
        case cudaDevAttrComputeCapabilityMajor: *value = card.major; break;
        case cudaDevAttrComputeCapabilityMinor: *value = card.minor; break;
        case cudaDevAttrMultiProcessorCount: *value = card.processors; break;
        case cudaDevAttrClockRate: *value = 1000000; break;
        case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = card.shared; break;
    }
    return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp *properties, int device) {
    if (device != 0) return cudaErrorInvalidDevice;
    snprintf(properties->name, sizeof properties->name, "emulated card");
    return cudaSuccess;
}
cudaError_t cudaDriverGetVersion(int *version) {
    *version = 13000;
    return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int *version) {
    *version = 13000;
    return cudaSuccess;
}
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes *attributes, const void *) {
    attributes->numRegs = 0;
    return cudaSuccess;
}
cudaError_t cudaFuncSetAttribute(const void *function, cudaFuncAttribute, int value) {
    std::lock_guard<std::mutex> lock(mutex);
    if (value > card.shared) return cudaErrorInvalidValue;
    allowed[function] = value;
    return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void *to, int byte, size_t bytes, cudaStream_t) {
    memset(to, byte, bytes);
    return cudaSuccess;
}
const char *cudaGetErrorName(cudaError_t error) {
    switch (error) {
        case cudaSuccess: return "cudaSuccess";
        case cudaErrorInvalidValue: return "cudaErrorInvalidValue";
        case cudaErrorInvalidConfiguration: return "cudaErrorInvalidConfiguration";
        case cudaErrorInvalidDevice: return "cudaErrorInvalidDevice";
        case cudaErrorLaunchOutOfResources: return "cudaErrorLaunchOutOfResources";
    }
    return "an error that is not known";
}
const char *cudaGetErrorString(cudaError_t error) { return cudaGetErrorName(error); }
