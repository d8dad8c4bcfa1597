// The steps of Kaldi's egs/sre08 and egs/voxceleb/v1 i-vector scripts, by the libraries of Kaldi itself.
//
//     ivector_kaldi TRAIN ALL OUT C R UBM_ITERATIONS EXTRACTOR_ITERATIONS START_SEED POSTERIOR_SCALE…
//
// TRAIN and ALL: features, int32 utterances, then for each int32 frames and float32 (frames, 60). OUT.ubm: the full
// mixture in Kaldi's text format; OUT.<scale>.ivectors: float64 (utterances of ALL, R). Seconds per step are printed.
// No header of Kaldi is needed: what is called is declared here, and what it keeps is room enough to keep it in (all
// zero bytes are an empty Vector, Matrix and GMM). It is linked against the libraries in a wheel of kaldi-active-grammar.
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <random>
#include <sstream>
#include <utility>
#include <vector>

namespace kaldi {
typedef int int32;
typedef std::vector<std::vector<std::pair<int32, float> > > Posterior;
template <class Real> struct VectorBase { Real *data_; int32 dim_; };
template <class Real> struct Vector : VectorBase<Real> { Vector() { this->data_ = nullptr; this->dim_ = 0; } };
template <class Real> struct MatrixBase { Real *data_; int32 num_cols_, num_rows_, stride_; };
template <class Real> class SpMatrix;
extern int32 g_num_threads;

struct Room { char bytes[2048]; Room() : bytes() {} };

class DiagGmm : Room {
 public:
  void Read(std::istream &, bool);
  void Split(int32 target, float perturb, std::vector<int32> *history);
  void CopyFromFullGmm(const class FullGmm &);
  void GaussianSelection(const MatrixBase<float> &, int32, std::vector<std::vector<int32> > *) const;
};
class FullGmm : Room {
 public:
  void CopyFromDiagGmm(const DiagGmm &);
  void LogLikelihoodsPreselect(const VectorBase<float> &, const std::vector<int32> &, Vector<float> *) const;
  void Write(std::ostream &, bool) const;
};
class AccumDiagGmm : Room {
 public:
  void Resize(int32, int32, unsigned short);
  float AccumulateFromDiagMultiThreaded(const DiagGmm &, const MatrixBase<float> &, const VectorBase<float> &, int32);
};
class AccumFullGmm : Room {
 public:
  void Resize(int32, int32, unsigned short);
  void AccumulateForComponent(const VectorBase<float> &, int32, float);
};
struct MleDiagGmmOptions {
  Vector<double> floor;
  float min_weight = 1e-4, min_occupancy = 10;
  double min_variance = 1e-3;
  bool remove_low_count = false;
};
struct MleFullGmmOptions {
  float min_weight = 1e-4, min_occupancy = 100, variance_floor = 1e-3, max_condition = 1e4;
  bool remove_low_count = false;
};
void MleDiagGmmUpdate(const MleDiagGmmOptions &, const AccumDiagGmm &, unsigned short, DiagGmm *, float *, float *,
                      int32 *, int32 *, int32 *);
void MleFullGmmUpdate(const MleFullGmmOptions &, const AccumFullGmm &, unsigned short, FullGmm *, float *, float *);

struct IvectorExtractorOptions { int dim, num_iters = 2; bool use_weights = false; };
struct IvectorExtractorStatsOptions {
  bool update_variances = true, compute_auxf = true;
  int32 num_samples_for_weights = 10;
  int cache_size = 100;
};
struct IvectorExtractorEstimationOptions {
  double variance_floor_factor = 0.1, min_count = 100;
  unsigned char rest[16] = {1, 0, 0, 0, 1};  // diagonalize, behind a number of threads in some versions
};
struct IvectorExtractorUtteranceStats {
  VectorBase<double> gamma;
  MatrixBase<double> x;
  std::vector<char> second;  // stays empty: for the variances only
  void AccStats(const MatrixBase<float> &, const Posterior &);
  void Scale(double);
};
class IvectorExtractor : Room {
 public:
  IvectorExtractor(const IvectorExtractorOptions &, const FullGmm &);
  void GetIvectorDistribution(const IvectorExtractorUtteranceStats &, VectorBase<double> *, SpMatrix<double> *) const;
};
class IvectorExtractorStats : Room {
 public:
  IvectorExtractorStats(const IvectorExtractor &, const IvectorExtractorStatsOptions &);
  void AccStatsForUtterance(const IvectorExtractor &, const MatrixBase<float> &, const Posterior &);
  void FlushCache();
  double Update(const IvectorExtractorEstimationOptions &, IvectorExtractor *) const;
};
}  // namespace kaldi

using namespace kaldi;

struct Clock {
  std::chrono::steady_clock::time_point start = std::chrono::steady_clock::now();
  void Say(const char *step) {
    auto now = std::chrono::steady_clock::now();
    printf("%s %.3f\n", step, std::chrono::duration<double>(now - start).count());
    fflush(stdout);
    start = now;
  }
};

struct Features {
  int32 dim;
  std::vector<int32> lengths;
  std::vector<float> data;
  std::vector<MatrixBase<float> > utterances;

  explicit Features(const char *path, int32 dim = 60) : dim(dim) {
    std::ifstream in(path, std::ios::binary);
    int32 count = 0, total = 0;
    in.read(reinterpret_cast<char *>(&count), 4);
    std::vector<size_t> firsts;
    for (int32 u = 0; u < count; u++) {
      int32 length = 0;
      in.read(reinterpret_cast<char *>(&length), 4);
      firsts.push_back(data.size());
      lengths.push_back(length);
      data.resize(data.size() + size_t(length) * dim);
      in.read(reinterpret_cast<char *>(&data[firsts.back()]), size_t(length) * dim * 4);
      total += length;
    }
    if (!in || !count) { fprintf(stderr, "%s: no features\n", path); exit(1); }
    for (int32 u = 0; u < count; u++) utterances.push_back({&data[firsts[u]], dim, lengths[u], dim});
    printf("frames %d\n", total);
  }
  MatrixBase<float> All() { return {data.data(), dim, int32(data.size() / dim), dim}; }
};

// gmm-global-init-from-feats: random frames as means, the corpus's variance everywhere.
std::string RandomMixture(Features &f, int32 count, int seed) {
  MatrixBase<float> x = f.All();
  std::vector<double> mean(f.dim), var(f.dim);
  for (int32 t = 0; t < x.num_rows_; t++)
    for (int32 d = 0; d < f.dim; d++) {
      double value = x.data_[size_t(t) * f.dim + d];
      mean[d] += value / x.num_rows_;
      var[d] += value * value / x.num_rows_;
    }
  std::ostringstream weights, means, inverse;
  std::mt19937 random(seed);
  for (int32 c = 0; c < count; c++) {
    size_t t = random() % x.num_rows_;
    weights << 1.0 / count << " ";
    for (int32 d = 0; d < f.dim; d++) {
      double v = 1 / (var[d] - mean[d] * mean[d]);
      inverse << v << " ";
      means << x.data_[t * f.dim + d] * v << " ";
    }
    if (c + 1 < count) { inverse << "\n"; means << "\n"; }
  }
  return "<DiagGMM> <WEIGHTS> [ " + weights.str() + "]\n<MEANS_INVVARS> [\n" + means.str() + "]\n<INV_VARS> [\n" +
         inverse.str() + "]\n</DiagGMM> ";
}

// gmm-gselect and fgmm-global-gselect-to-post.
Posterior Align(const FullGmm &full, const DiagGmm &diag, const MatrixBase<float> &x, int32 selected, float floor) {
  Posterior post(x.num_rows_);
  std::vector<std::vector<int32> > best;
  diag.GaussianSelection(x, selected, &best);
  Vector<float> log_like;
  for (int32 t = 0; t < x.num_rows_; t++) {
    VectorBase<float> row = {x.data_ + size_t(t) * x.stride_, x.num_cols_};
    full.LogLikelihoodsPreselect(row, best[t], &log_like);
    float most = log_like.data_[0], sum = 0, kept = 0;
    int32 top = 0;
    for (int32 i = 1; i < log_like.dim_; i++)
      if (log_like.data_[i] > most) { most = log_like.data_[i]; top = i; }
    for (int32 i = 0; i < log_like.dim_; i++) sum += log_like.data_[i] = std::exp(log_like.data_[i] - most);
    for (int32 i = 0; i < log_like.dim_; i++)
      if (log_like.data_[i] / sum >= floor || i == top) {
        post[t].push_back({best[t][i], log_like.data_[i]});
        kept += log_like.data_[i];
      }
    for (auto &entry : post[t]) entry.second /= kept;
  }
  free(log_like.data_);
  return post;
}

int main(int argc, char *argv[]) {
  if (argc < 10) { fprintf(stderr, "see the head of ivector_kaldi.cc\n"); return 1; }
  g_num_threads = 1;
  Features train(argv[1]), all(argv[2]);
  std::string out = argv[3];
  int32 num = atoi(argv[4]), rank = atoi(argv[5]), ubm_iters = atoi(argv[6]), iters = atoi(argv[7]);
  const int32 dim = train.dim, start_iters = 20;
  MatrixBase<float> x = train.All();
  Clock clock;

  DiagGmm diag;
  std::istringstream text(RandomMixture(train, num / 2, atoi(argv[8])));
  diag.Read(text, false);
  std::vector<float> ones(x.num_rows_, 1.0f);
  VectorBase<float> weights = {ones.data(), x.num_rows_};
  int32 current = num / 2, step = std::max(1, (num - num / 2) / (start_iters / 2));
  for (int32 iter = 0; iter < start_iters + ubm_iters; iter++) {
    AccumDiagGmm sums;
    sums.Resize(current, dim, 7);
    sums.AccumulateFromDiagMultiThreaded(diag, x, weights, 1);
    float change, count;
    MleDiagGmmUpdate(MleDiagGmmOptions(), sums, 7, &diag, &change, &count, nullptr, nullptr, nullptr);
    int32 next = std::min(num, current + step);
    if (next > current && iter < start_iters) diag.Split(current = next, 0.1, nullptr);
    clock.Say(iter < start_iters ? "start" : "diagonal");
  }

  FullGmm full;
  full.CopyFromDiagGmm(diag);
  for (int32 iter = 0; iter < ubm_iters; iter++) {
    diag.CopyFromFullGmm(full);
    AccumFullGmm sums;
    sums.Resize(num, dim, 7);
    for (auto &utterance : train.utterances) {
      Posterior post = Align(full, diag, utterance, std::min(20, num), 0);
      for (int32 t = 0; t < utterance.num_rows_; t++)
        for (auto &entry : post[t])
          sums.AccumulateForComponent({utterance.data_ + size_t(t) * dim, dim}, entry.first, entry.second);
    }
    float change, count;
    MleFullGmmUpdate(MleFullGmmOptions(), sums, 7, &full, &change, &count);
    clock.Say("full");
  }
  diag.CopyFromFullGmm(full);
  std::ofstream ubm(out + ".ubm");
  ubm.precision(9);
  full.Write(ubm, false);

  std::vector<Posterior> posts;
  for (auto &utterance : train.utterances)
    posts.push_back(Align(full, diag, utterance, std::min(20, num), 0.025));
  clock.Say("align");
  double before = 1;
  for (int argument = 9; argument < argc; argument++) {
    double scale = atof(argv[argument]);
    for (auto &post : posts)
      for (auto &frame : post)
        for (auto &entry : frame) entry.second *= scale / before;
    before = scale;
    IvectorExtractorOptions options;
    options.dim = rank;
    IvectorExtractor extractor(options, full);
    for (int32 iter = 0; iter < iters; iter++) {
      IvectorExtractorStats *sums = new IvectorExtractorStats(extractor, IvectorExtractorStatsOptions());
      for (size_t u = 0; u < posts.size(); u++) sums->AccStatsForUtterance(extractor, train.utterances[u], posts[u]);
      sums->FlushCache();
      sums->Update(IvectorExtractorEstimationOptions(), &extractor);
      clock.Say("extractor");
    }
    std::ofstream vectors(out + "." + argv[argument] + ".ivectors", std::ios::binary);
    for (auto &utterance : all.utterances) {
      Posterior post = Align(full, diag, utterance, std::min(20, num), 0.025);
      std::vector<double> gamma(num), sum(size_t(num) * dim), mean(rank);
      IvectorExtractorUtteranceStats stats = {{gamma.data(), num}, {sum.data(), dim, num, dim}, {}};
      stats.AccStats(utterance, post);
      stats.Scale(scale);
      VectorBase<double> w = {mean.data(), rank};
      extractor.GetIvectorDistribution(stats, &w, nullptr);
      vectors.write(reinterpret_cast<char *>(mean.data()), rank * 8);
    }
    clock.Say("extract");
  }
  return 0;
}
