#include "instruction_set.hpp"

#include <atomic>
#include <stdexcept>

#if defined(GAME_AGENT_X86) && defined(_MSC_VER)
#include <immintrin.h>
#include <intrin.h>
#endif

#if defined(GAME_AGENT_X86) && !defined(_MSC_VER)
#include <cpuid.h>
#endif

#if defined(GAME_AGENT_AMX)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace game_agent {

namespace {

#if defined(GAME_AGENT_X86) && defined(_MSC_VER)

// Bits of CPUID leaf 7 EBX and of the state that the system saves (XCR0).
bool has(int leaf7_ebx, unsigned long long saved) {
  int regs[4];
  __cpuid(regs, 0);
  if (regs[0] < 7) return false;
  __cpuid(regs, 1);
  constexpr int kNeeded = 1 << 12 | 1 << 27 | 1 << 29;  // FMA, XSAVE, F16C
  if ((regs[2] & kNeeded) != kNeeded) return false;
  if ((_xgetbv(0) & saved) != saved) return false;
  __cpuidex(regs, 7, 0);
  return (regs[1] & leaf7_ebx) == leaf7_ebx;
}
bool has_avx2() { return has(1 << 5, 0x6); }
bool has_avx512() {
  constexpr int kF = 1 << 16, kDq = 1 << 17, kBw = 1 << 30, kVl = static_cast<int>(1u << 31);
  return has(kF | kDq | kBw | kVl, 0xe6);
}

#elif defined(GAME_AGENT_X86)

bool has_avx2() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  constexpr unsigned kHalves = 1u << 29;  // F16C, a name that not every compiler knows
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
         __get_cpuid(1, &eax, &ebx, &ecx, &edx) && (ecx & kHalves) != 0;
}
bool has_avx512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
}

#endif

#if defined(GAME_AGENT_AVX512_BF16)

// With the products of 16-bit integers (VNNI), which every processor that has these has.
bool has_vector_bf16() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  return __builtin_cpu_supports("avx512vnni") &&
         __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) && (eax & 1u << 5) != 0;
}

#endif

#if defined(GAME_AGENT_AMX)

// Linux wants to be asked before a process uses the tile registers.
bool has_amx() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  constexpr unsigned kTile = 1u << 24, kTileBf16 = 1u << 22;  // of CPUID leaf 7
  if (!has_vector_bf16() || !__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx)) return false;
  if ((edx & (kTile | kTileBf16)) != (kTile | kTileBf16)) return false;
  constexpr long kRequestPermission = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

#endif

const std::vector<const KernelTable*>& tables() {
  static const std::vector<const KernelTable*> found = [] {
    std::vector<const KernelTable*> out;
#if defined(GAME_AGENT_AMX)
    if (has_avx512() && has_amx()) out.push_back(&amx_kernels());
#endif
#if defined(GAME_AGENT_AVX512_BF16)
    if (has_avx512() && has_vector_bf16()) out.push_back(&avx512_bf16_kernels());
#endif
#if defined(GAME_AGENT_X86)
    if (has_avx512()) out.push_back(&avx512_kernels());
    if (has_avx2()) out.push_back(&avx2_kernels());
#endif
    out.push_back(&plain_kernels());
    return out;
  }();
  return found;
}

std::atomic<const KernelTable*>& chosen() {
  static std::atomic<const KernelTable*> table{tables().front()};
  return table;
}

}  // namespace

std::vector<std::string> instruction_sets() {
  std::vector<std::string> names;
  for (const KernelTable* table : tables()) names.emplace_back(table->name);
  return names;
}

const KernelTable& kernels() { return *chosen().load(std::memory_order_relaxed); }

void set_instruction_set(const std::string& name) {
  for (const KernelTable* table : tables()) {
    if (name == table->name) {
      chosen() = table;
      return;
    }
  }
  throw std::invalid_argument("this processor has no instruction set '" + name +
                              "' that the kernels know; see instruction_sets()");
}

}  // namespace game_agent
