// What a block adds to the sums of its image; statistics.py says what they are and makes statistics of them. All integers:
// the order of additions can't show. A tile's sums fit 32 bits; an image's don't.
#pragma once

constexpr int kThreads = 256, kTileWidth = 32, kTileHeight = 16;  // launch.py's THREADS and TILE
constexpr int kHaloWidth = kTileWidth + 2, kHaloHeight = kTileHeight + 2;
constexpr int kMoments = 8, kLumas = 256;
constexpr int kLaplacian = 0, kChannel = 2;  // each with its square: at + 1, the channels' at + 3
static_assert(kThreads == kLumas, "each thread clears and adds one bin");

struct Shared {
    unsigned char luma[kHaloWidth * kHaloHeight];  // the tile with the pixels around it
    unsigned int histogram[kLumas];
    unsigned int moments[kMoments];
};

// OpenCV's RGB to grey: ITU-R BT.601 in 15 bits.
__device__ inline int luma_of(const Pixel& pixel) {
    return (pixel.channel[0] * 9798 + pixel.channel[1] * 19235 + pixel.channel[2] * 3735 + (1 << 14)) >> 15;
}

// The four-neighbour Laplacian at one pixel of the tile.
__device__ inline int laplacian(const Shared& shared, int x, int y) {
    const int at = (y + 1) * kHaloWidth + x + 1;
    return shared.luma[at - 1] + shared.luma[at + 1] + shared.luma[at - kHaloWidth] + shared.luma[at + kHaloWidth] -
           4 * shared.luma[at];
}

__device__ inline void clear(Shared& shared) {
    shared.histogram[threadIdx.x] = 0;
    if (threadIdx.x < kMoments) shared.moments[threadIdx.x] = 0;
}

// Adds each thread's moments up in its warp, then in the block.
__device__ inline void gather(Shared& shared, unsigned int (&moments)[kMoments]) {
    for (int m = 0; m < kMoments; ++m) {
        for (int step = 16; step > 0; step /= 2) moments[m] += __shfl_down_sync(0xffffffffu, moments[m], step);
        if (threadIdx.x % 32 == 0) atomicAdd(&shared.moments[m], moments[m]);
    }
}

// Adds the block's to the image's. All threads' contributions to `shared` must be in.
__device__ inline void publish(const Shared& shared, unsigned long long* sums) {
    if (threadIdx.x < kMoments) {
        const unsigned int sum = shared.moments[threadIdx.x];
        // Only the Laplacian can be below 0: its sign goes on into 64 bits.
        const long long wide = threadIdx.x == kLaplacian ? static_cast<int>(sum) : static_cast<long long>(sum);
        atomicAdd(&sums[threadIdx.x], static_cast<unsigned long long>(wide));
    }
    if (const unsigned int pixels = shared.histogram[threadIdx.x]) {
        atomicAdd(&sums[kMoments + threadIdx.x], static_cast<unsigned long long>(pixels));
    }
}
