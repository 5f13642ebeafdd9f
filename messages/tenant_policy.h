#pragma once
// What the scheduler knows of a tenant. One default tenant today; shares and quotas come with the
// tenants issue, through this value.

#include <cstdint>
#include <string>

#include "base/ids.h"

namespace millrace {

struct TenantPolicy {
  TenantId id;
  std::string name;
  double weight = 1.0;  // share of work served; not read yet
};

}  // namespace millrace
