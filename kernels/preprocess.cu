// A batch of images becomes rows of a batch slot: resize, padding, colour order, normalisation, layout and dtype in one
// pass, and with it the sums of what the model will see. A block makes one tile of one image's model input.
#include "sampling.h"
#include "sums.h"

// What all images of a launch have in common: launch.py's `scalars`.
struct Target {
    int width, height;
    int bytes;   // of an element of the slot: 1 uint8, 2 float16, 4 float32
    int planar;  // nchw
    int bgr;
    int pad;  // grey level outside the destination
};

// The pixel of the model's input, as red, green, blue.
template <class Filter>
__device__ Pixel grid_pixel(const Job& job, const Target& target, int x, int y) {
    const int inner_x = x - job.x, inner_y = y - job.y;
    if (inner_x < 0 || inner_y < 0 || inner_x >= job.width || inner_y >= job.height) {
        return {{target.pad, target.pad, target.pad}};
    }
    return Filter::at(job, inner_x, inner_y);
}

// Grey levels become elements of the slot by a table of their bits: no arithmetic is done in the slot's dtype.
__device__ inline void store(const Target& target, const void* levels, void* slot, int x, int y, const Pixel& pixel) {
    const size_t pixels = static_cast<size_t>(target.width) * target.height;
    const size_t at = static_cast<size_t>(y) * target.width + x;
    for (int c = 0; c < 3; ++c) {
        const int level = pixel.channel[target.bgr ? 2 - c : c];
        const size_t element = blockIdx.z * 3 * pixels + (target.planar ? c * pixels + at : at * 3 + c);
        if (target.bytes == 1) {
            static_cast<unsigned char*>(slot)[element] = static_cast<unsigned char>(level);
        } else if (target.bytes == 2) {
            static_cast<unsigned short*>(slot)[element] = static_cast<const unsigned short*>(levels)[c * 256 + level];
        } else {
            static_cast<unsigned int*>(slot)[element] = static_cast<const unsigned int*>(levels)[c * 256 + level];
        }
    }
}

// Beyond an edge lies the pixel before it: OpenCV's BORDER_REFLECT_101, one pixel deep.
__device__ inline int mirrored(int at, int length) {
    if (length == 1) return 0;
    return at < 0 ? 1 : at == length ? length - 2 : at;
}

template <class Filter>
__device__ void plain_tile(const Job& job, const Target& target, const void* levels, void* slot, int left, int top) {
    for (int i = threadIdx.x; i < kTileWidth * kTileHeight; i += kThreads) {
        const int x = left + i % kTileWidth, y = top + i / kTileWidth;
        if (x < target.width && y < target.height) {
            store(target, levels, slot, x, y, grid_pixel<Filter>(job, target, x, y));
        }
    }
}

// As plain_tile, and adds up the sums. The pixels around the tile are sampled once more, for the Laplacian.
template <class Filter>
__device__ void summed_tile(const Job& job, const Target& target, const void* levels, void* slot, int left, int top,
                            Shared& shared, unsigned long long* sums) {
    clear(shared);
    __syncthreads();
    unsigned int moments[kMoments] = {};
    for (int i = threadIdx.x; i < kHaloWidth * kHaloHeight; i += kThreads) {
        const int tile_x = i % kHaloWidth - 1, tile_y = i / kHaloWidth - 1;
        const int x = left + tile_x, y = top + tile_y;
        if (x > target.width || y > target.height) continue;
        const Pixel pixel =
            grid_pixel<Filter>(job, target, mirrored(x, target.width), mirrored(y, target.height));
        const int luma = luma_of(pixel);
        shared.luma[i] = static_cast<unsigned char>(luma);
        const bool around = tile_x < 0 || tile_y < 0 || tile_x == kTileWidth || tile_y == kTileHeight;
        if (around || x >= target.width || y >= target.height) continue;
        store(target, levels, slot, x, y, pixel);
        for (int c = 0; c < 3; ++c) {
            const int level = pixel.channel[target.bgr ? 2 - c : c];
            moments[kChannel + c] += level;
            moments[kChannel + 3 + c] += level * level;
        }
        atomicAdd(&shared.histogram[luma], 1u);
    }
    __syncthreads();
    for (int i = threadIdx.x; i < kTileWidth * kTileHeight; i += kThreads) {
        const int x = i % kTileWidth, y = i / kTileWidth;
        if (left + x < target.width && top + y < target.height) {
            const int value = laplacian(shared, x, y);
            moments[kLaplacian] += static_cast<unsigned int>(value);
            moments[kLaplacian + 1] += static_cast<unsigned int>(value * value);
        }
    }
    gather(shared, moments);
    __syncthreads();
    publish(shared, sums + blockIdx.z * static_cast<size_t>(kMoments + kLumas));
}

// levels: (3, 256) of the slot's dtype in the slot's colour order. slot: one row an image. sums: (images, 264), zeroed
// before the launch, or null.
#define PREPROCESS(name, Filter)                                                                                       \
    extern "C" __global__ void __launch_bounds__(kThreads, 3)                                                          \
        name(const Job* jobs, const void* levels, void* slot, unsigned long long* sums, int width, int height,         \
             int bytes, int planar, int bgr, int pad) {                                                                \
        __shared__ Shared shared;                                                                                      \
        const Target target = {width, height, bytes, planar, bgr, pad};                                                \
        const Job& job = jobs[blockIdx.z];                                                                           \
        const int left = blockIdx.x * kTileWidth, top = blockIdx.y * kTileHeight;                                      \
        if (sums) {                                                                                                    \
            summed_tile<Filter>(job, target, levels, slot, left, top, shared, sums);                                   \
        } else {                                                                                                       \
            plain_tile<Filter>(job, target, levels, slot, left, top);                                                  \
        }                                                                                                              \
    }

PREPROCESS(preprocess_bilinear, Bilinear)
PREPROCESS(preprocess_area, Area)
PREPROCESS(preprocess_bilinear_antialias, Antialias)
