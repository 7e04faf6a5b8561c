// A profile as a form. It has no values of its own: it shows and changes the text.
import type { ComponentChildren } from "preact";

import { Aliases } from "./aliases.tsx";
import { Field, Properties, type Form } from "./fields.tsx";
import { ModelChoice } from "./model_choice.tsx";
import { TierRanges } from "./tier_ranges.tsx";

export function ProfileForm({ form }: { form: Form }) {
  const { name, description } = form.schemas.Profile?.properties ?? {};
  return (
    <>
      <div class="settings">
        <Field form={form} path={["name"]} title="Name" schema={name ?? {}} />
        <Field form={form} path={["description"]} title="Description" schema={description ?? {}} />
      </div>
      <Part id="models" title="Models">
        <ModelChoice form={form} />
      </Part>
      <Part id="aliases" title="Names for clients">
        <Aliases form={form} />
      </Part>
      <Part id="tiers" title="Tiers for auto">
        <TierRanges form={form} />
      </Part>
      <Part id="two-stage" title="Two stages: one tier drafts, another one refines">
        <Properties form={form} path={["two_stage"]} schema="TwoStage-Input" />
      </Part>
      <Part id="balancing" title="Several servers of a model">
        <Properties form={form} path={["load_balancing"]} schema="LoadBalancing-Input" />
      </Part>
    </>
  );
}

interface PartProps {
  id: string;
  title: string;
  children: ComponentChildren;
}

function Part({ id, title, children }: PartProps) {
  return (
    <section aria-labelledby={id}>
      <h2 id={id}>{title}</h2>
      {children}
    </section>
  );
}
