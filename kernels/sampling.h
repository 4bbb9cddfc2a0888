// One pixel of the model's input from an upright source rectangle, by each filter. Tables come from axes.py, which says
// what they hold; here products are added in the order and with the roundings of OpenCV and Pillow.
#pragma once

// launch.py's JOB, field by field.
struct Job {
    const unsigned char* source;  // red of the rectangle's upright left top pixel
    const int* columns;           // of the filter, or for `area` of the sampling that follows the means
    const int* rows;
    const int* shares_across;  // `area` only: footprints
    const int* shares_down;
    long long channel;                // bytes from red to green
    int across, down;                 // bytes from a pixel to its neighbours
    int shrunk_width, shrunk_height;  // what columns and rows sample: the rectangle, or its means
    int x, y, width, height;          // destination in the model's input
    float gain, offset;               // sum of a footprint to its mean
};

struct Pixel {
    int channel[3];  // grey levels of red, green, blue
};

// The source rectangle as it is.
struct Source {
    static constexpr int kUnroll = 2;
    const Job& job;

    __device__ Pixel at(int x, int y) const {
        const unsigned char* red = job.source + static_cast<long long>(x) * job.across + static_cast<long long>(y) * job.down;
        return {{red[0], red[job.channel], red[2 * job.channel]}};
    }
};

// The source rectangle shrunk by means over footprints: OpenCV's INTER_AREA, or the rectangle itself along an axis of the same length.
struct Shrunk {
    static constexpr int kUnroll = 1;  // four copies of these loops would spill
    const Job& job;

    __device__ Pixel at(int x, int y) const {
        const int left = job.shares_across[x], columns = job.shares_across[job.shrunk_width + x];
        const int top = job.shares_down[y], rows = job.shares_down[job.shrunk_height + y];
        const Source source = {job};
        float sum[3] = {0.0f, 0.0f, 0.0f};
        for (int j = 0; j < rows; ++j) {
            float row[3] = {0.0f, 0.0f, 0.0f};
#pragma unroll 2  // four would spill on some architectures
            for (int i = 0; i < columns; ++i) {
                const Pixel pixel = source.at(left + i, top + j);
                const float share = __int_as_float(job.shares_across[(2 + i) * job.shrunk_width + x]);
                for (int c = 0; c < 3; ++c) row[c] += static_cast<float>(pixel.channel[c]) * share;
            }
            const float share = __int_as_float(job.shares_down[(2 + j) * job.shrunk_height + y]);
            for (int c = 0; c < 3; ++c) sum[c] += share * row[c];
        }
        Pixel mean;
        for (int c = 0; c < 3; ++c) {
            mean.channel[c] = min(max(__float2int_rn(sum[c] * job.gain + job.offset), 0), 255);
        }
        return mean;
    }
};

// OpenCV's INTER_LINEAR for uint8: weights of 11 bits, four bits cut after the columns and 16 after each row's product.
template <class Pixels>
__device__ Pixel sampled(const Job& job, const Pixels& pixels, int x, int y) {
    int sum[3] = {0, 0, 0};
#pragma unroll Pixels::kUnroll
    for (int j = 0; j < 2; ++j) {
        // A weight of 0 is common (all of an axis that keeps its length), and a pixel may be a mean over many.
        const int weight = job.rows[(2 + j) * job.height + y];
        if (weight == 0) continue;
        const int line = job.rows[j * job.height + y];
        int row[3] = {0, 0, 0};
#pragma unroll Pixels::kUnroll
        for (int i = 0; i < 2; ++i) {
            const int share = job.columns[(2 + i) * job.width + x];
            if (share == 0) continue;
            const Pixel pixel = pixels.at(job.columns[i * job.width + x], line);
            for (int c = 0; c < 3; ++c) row[c] += pixel.channel[c] * share;
        }
        for (int c = 0; c < 3; ++c) sum[c] += (weight * (row[c] >> 4)) >> 16;
    }
    Pixel result;
    for (int c = 0; c < 3; ++c) result.channel[c] = min((sum[c] + 2) >> 2, 255);
    return result;
}

struct Bilinear {
    static __device__ Pixel at(const Job& job, int x, int y) { return sampled(job, Source{job}, x, y); }
};

struct Area {
    static __device__ Pixel at(const Job& job, int x, int y) { return sampled(job, Shrunk{job}, x, y); }
};

// Pillow's BILINEAR for 8 bits: columns first (Pillow 13 takes rows first for some shapes), rounded to grey levels, then rows;
// weights of 22 bits.
struct Antialias {
    static __device__ Pixel at(const Job& job, int x, int y) {
        constexpr int kBits = 22, kHalf = 1 << (kBits - 1);
        const int left = job.columns[x], columns = job.columns[job.width + x];
        const int top = job.rows[y], rows = job.rows[job.height + y];
        const Source source = {job};
        int sum[3] = {kHalf, kHalf, kHalf};
        for (int j = 0; j < rows; ++j) {
            int row[3] = {kHalf, kHalf, kHalf};
            for (int i = 0; i < columns; ++i) {
                const Pixel pixel = source.at(left + i, top + j);
                const int weight = job.columns[(2 + i) * job.width + x];
                for (int c = 0; c < 3; ++c) row[c] += pixel.channel[c] * weight;
            }
            const int weight = job.rows[(2 + j) * job.height + y];
            for (int c = 0; c < 3; ++c) sum[c] += min(row[c] >> kBits, 255) * weight;
        }
        Pixel result;
        for (int c = 0; c < 3; ++c) result.channel[c] = min(sum[c] >> kBits, 255);
        return result;
    }
};
