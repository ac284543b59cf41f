/* Normalise, scale, shift and SiLU in channels-last images: what lies between two convolutions, in as few passes as it takes.
 *
 * Arrays are (n, pixels, c), c a multiple of 16; tables are float (n, c) or (n, groups).  One element type a build:
 * bfloat16 (the default) or float (-DSINGLE).  Arithmetic is in float.  Vectors are those of GCC and Clang, so that the
 * same text serves any machine these know. */
#include <math.h>
#include <stdint.h>
#include <string.h>

#define L 16
typedef float F __attribute__((vector_size(4 * L)));
typedef uint32_t U __attribute__((vector_size(4 * L)));
typedef int32_t I __attribute__((vector_size(4 * L)));
typedef uint16_t H __attribute__((vector_size(2 * L)));

#ifdef SINGLE
typedef float T;
static inline F load(const T *p) { F v; memcpy(&v, p, sizeof v); return v; }
static inline void store(T *p, F v) { memcpy(p, &v, sizeof v); }
#else
typedef uint16_t T;
static inline F load(const T *p) {
    H h;
    memcpy(&h, p, sizeof h);
    return (F)(__builtin_convertvector(h, U) << 16);
}
static inline void store(T *p, F v) { /* rounds to nearest, ties to even */
    U u = (U)v;
    u = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
    H h = __builtin_convertvector(u, H);
    memcpy(p, &h, sizeof h);
}
#endif
static inline F table(const float *p) { F v; memcpy(&v, p, sizeof v); return v; }
static inline void put(float *p, F v) { memcpy(p, &v, sizeof v); }

/* value where mask, else x */
static inline F clip(F x, I mask, float value) { return (F)((mask & (I)((F){} + value)) | (~mask & (I)x)); }

/* exp to two parts in 10^7: 2^k p(r), r = x - k ln 2 in [-ln 2 / 2, ln 2 / 2], p the Taylor polynomial of degree 7. */
static inline F vexp(F x) {
    x = clip(x, x < -80.0f, -80.0f);
    x = clip(x, x > 80.0f, 80.0f);
    F shifted = x * 1.44269504f + 12582912.0f; /* 1.5 * 2^23: its last bits are round(x / ln 2) */
    F k = shifted - 12582912.0f;
    F r = (x - k * 0.693359375f) + k * 2.12194440e-4f;
    F p = r * 1.98412698e-4f + 1.38888889e-3f;
    p = p * r + 8.33333333e-3f;
    p = p * r + 4.16666667e-2f;
    p = p * r + 1.66666667e-1f;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    return p * (F)(((I)shifted + (127 - 0x4b400000)) << 23);
}
static inline F sigmoid(F z) { return 1.0f / (1.0f + vexp(-z)); }
/* derivative of z sigmoid(z) */
static inline F slope(F z) { F s = sigmoid(z); return s * (1.0f + z * (1.0f - s)); }

/* Sum of x over the pixels, (n, c); mean and 1 / sqrt(variance + eps) of every group of channels of x + shift, (n, groups); variance about the mean found. */
void moments(const T *x, const float *shift, float *sums, float *mean, float *rstd, long n, long pixels, long c, long groups,
             float eps, int threads) {
    long width = c / groups;
    double count = (double)pixels * width;
#pragma omp parallel for num_threads(threads)
    for (long i = 0; i < n; i++) {
        float square[c], centre[c], *sum = sums + i * c;
        for (long j = 0; j < c; j += L) {
            F s = {};
            for (long p = 0; p < pixels; p++) s += load(x + (i * pixels + p) * c + j);
            put(sum + j, s);
        }
        for (long g = 0; g < groups; g++) {
            double total = 0;
            for (long j = g * width; j < (g + 1) * width; j++) total += sum[j] + (double)pixels * shift[i * c + j];
            mean[i * groups + g] = (float)(total / count);
            for (long j = g * width; j < (g + 1) * width; j++) centre[j] = (float)(total / count) - shift[i * c + j];
        }
        for (long j = 0; j < c; j += L) {
            F s = {}, m = table(centre + j);
            for (long p = 0; p < pixels; p++) {
                F d = load(x + (i * pixels + p) * c + j) - m;
                s += d * d;
            }
            put(square + j, s);
        }
        for (long g = 0; g < groups; g++) {
            double total = 0;
            for (long j = g * width; j < (g + 1) * width; j++) total += square[j];
            rstd[i * groups + g] = (float)(1.0 / sqrt(total / count + eps));
        }
    }
}

/* y = silu(a x + b), with a and b of every image and channel. */
void forward(const T *x, const float *a, const float *b, T *y, long n, long pixels, long c,
              int threads) {
#pragma omp parallel for num_threads(threads)
    for (long i = 0; i < n; i++)
        for (long p = 0; p < pixels; p++)
            for (long j = 0; j < c; j += L) {
                F z = table(a + i * c + j) * load(x + (i * pixels + p) * c + j) + table(b + i * c + j);
                store(y + (i * pixels + p) * c + j, z * sigmoid(z));
            }
}

/* d = g silu'(a x + b), and its sums over the pixels and those of d x, (n, c): the gradients of b and a. */
void backward_sums(const T *x, const T *g, const float *a, const float *b, T *d, float *db, float *da, long n, long pixels,
                   long c, int threads) {
#pragma omp parallel for num_threads(threads)
    for (long i = 0; i < n; i++)
        for (long j = 0; j < c; j += L) {
            F s = {}, t = {}, fa = table(a + i * c + j), fb = table(b + i * c + j);
            for (long p = 0; p < pixels; p++) {
                long at = (i * pixels + p) * c + j;
                F v = load(x + at), e = load(g + at) * slope(fa * v + fb);
                store(d + at, e);
                s += e;
                t += e * v;
            }
            put(db + i * c + j, s);
            put(da + i * c + j, t);
        }
}

/* d = a d + q x + r, in place: q and r bring back what the moments of x passed on. */
void backward(const T *x, T *d, const float *a, const float *q, const float *r, long n, long pixels, long c, int threads) {
#pragma omp parallel for num_threads(threads)
    for (long i = 0; i < n; i++)
        for (long p = 0; p < pixels; p++)
            for (long j = 0; j < c; j += L) {
                long at = (i * pixels + p) * c + j;
                F e = table(a + i * c + j) * load(d + at) + table(q + i * c + j) * load(x + at) + table(r + i * c + j);
                store(d + at, e);
            }
}
